//! Real processes that die at a step of a change of role, or before an operation on a file, exactly there; they are started again, and the
//! group is checked: its voters are those before or those after, no acknowledged write is missing, and the same command comes to its end.
//! `eaves recover` dies, too, before each of its operations on files.
//!
//! This program is the processes, too: as `eaves <file> ...` it is `eaves ...` with nodes that look at every point whether `<file>` names
//! it. Who finds its point there removes the file, so that nobody else dies of it, and aborts: nothing is flushed, nobody is told. The
//! `eaves` that is shipped has none of this.

mod points;
mod recover;
mod roles;

use eaves_harness::Binary;
use std::ffi::OsString;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

/// A test, run when its name is asked for.
type Test = fn() -> Pin<Box<dyn Future<Output = ()>>>;

/// The word by which this program is told to be `eaves`.
const AS_EAVES: &str = "eaves";

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let first = words.next();
    if first.as_deref() == Some(AS_EAVES.as_ref()) {
        let file = PathBuf::from(words.next().expect("the file that names the point"));
        let words = std::iter::once(OsString::from(AS_EAVES)).chain(words);
        return eaves_server::main_adjusted(words, &points::Points(file));
    }
    // As the usual harness would: a word selects, flags do not matter here.
    let wanted = first.filter(|word| !word.to_string_lossy().starts_with('-'));
    let wanted = wanted.unwrap_or_default().to_string_lossy().into_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("build a runtime");
    // At the same time: most of the time all of them wait for elections.
    let tests = roles::TESTS
        .iter()
        .chain(recover::TESTS)
        .filter(|(name, _)| name.contains(&wanted));
    runtime.block_on(futures_util::future::join_all(tests.map(
        async |(name, test)| {
            test().await;
            println!("test {name} ... ok");
        },
    )));
    ExitCode::SUCCESS
}

/// This program, as the processes that look into `file`.
fn eaves(file: &std::path::Path) -> Binary {
    let program = std::env::current_exe().expect("this program has a path");
    let program = program.to_str().expect("its path is text").to_owned();
    let file: &'static str = file.to_str().expect("its path is text").to_owned().leak();
    Binary::part_of(program, vec![AS_EAVES, file].leak())
}
