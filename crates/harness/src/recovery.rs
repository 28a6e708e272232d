//! What tests of `eaves recover` look at: the files of a directory, and the commands that it prints.

use std::fs;
use std::path::{Path, PathBuf};

/// The files below a directory with what they hold, in their order; the lock left out.
pub fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("list a directory") {
        let path = entry.expect("list a directory").path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false if path.ends_with("LOCK") => {}
            false => files.push((path.clone(), fs::read(&path).expect("read a file"))),
        }
    }
    files.sort();
    files
}

/// The words of the command that starts voter `name`, as `eaves recover` printed them.
pub fn start_command<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!("  eaves serve --name {name} ");
    let line = text.lines().find(|line| line.starts_with(&start));
    let words = line.unwrap_or_else(|| panic!("no command for {name}: {text}"));
    words.split_whitespace().skip(1).collect()
}
