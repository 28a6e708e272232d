//! What the documents say about the code and can be checked: paths exist, names of invariants and dependencies are those of the code,
//! the README's commands are commands, and every source file says what it is for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between single backquotes outside code blocks.
fn quoted(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .collect()
}

/// The rows of the first table whose heading line is `heading`, as cells.
fn table<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let (_, after) = text
        .split_once(heading)
        .unwrap_or_else(|| panic!("no table {heading}"));
    let lines = after.lines().skip(2);
    let rows: Vec<Vec<&str>> = lines
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert!(!rows.is_empty(), "the table {heading} has no rows");
    rows
}

/// Where the links of a document lead, those to other hosts left out.
fn link_targets(text: &str) -> Vec<&str> {
    let after_bracket = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    after_bracket
        .filter(|target| !target.starts_with("http") && !target.starts_with('#'))
        .map(|target| target.split('#').next().unwrap_or(target))
        .collect()
}

fn is_path(word: &str) -> bool {
    [
        "crates/",
        "docs/",
        "fuzz/",
        "interop/",
        "mutations/",
        ".ci/",
    ]
    .iter()
    .any(|start| word.starts_with(start))
}

#[test]
fn named_paths_exist() {
    for document in ["README.md", "ARCHITECTURE.md", "STYLE.md", "CHANGELOG.md"] {
        let text = read(document);
        let paths = quoted(&text).into_iter().filter(|word| is_path(word));
        let paths: Vec<&str> = paths.chain(link_targets(&text)).collect();
        assert!(!paths.is_empty(), "{document} names no file");
        for path in paths {
            assert!(root().join(path).exists(), "{document}: there is no {path}");
        }
    }
}

#[test]
fn every_crate_is_on_the_map() {
    let map = read("ARCHITECTURE.md");
    for entry in std::fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            map.contains(&format!("### `crates/{name}`")),
            "ARCHITECTURE.md: no section about crates/{name}"
        );
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut waiting: Vec<PathBuf> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| entry.unwrap().path().join("src"))
        .collect();
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            seen += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("//! "),
                "{}: begin with `//!` and say what the file is for",
                path.display()
            );
        }
    }
    assert!(seen > 100, "only {seen} source files were found");
}

#[test]
fn invariants_have_the_names_that_the_code_has() {
    let map = read("ARCHITECTURE.md");
    for row in table(&map, "| name | says | where |") {
        let [name, _, places] = row[..] else {
            panic!("not three cells: {row:?}")
        };
        let name = name.trim_matches('`');
        let files = quoted(places);
        assert!(!files.is_empty(), "{name}: name a file");
        for file in files {
            assert!(
                read(file).contains(name),
                "{file} does not name the invariant {name}"
            );
        }
    }
}

#[test]
fn every_dependency_has_a_reason() {
    let map = read("ARCHITECTURE.md");
    let listed: BTreeSet<&str> = table(&map, "| crate | for | released | crates |")
        .into_iter()
        .flat_map(|row| quoted(row[0]))
        .collect();
    let mut used = BTreeSet::new();
    let manifests: Vec<String> = std::fs::read_dir(root().join("crates"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path().join("Cargo.toml")).unwrap())
        .collect();
    for manifest in &manifests {
        let sections = manifest
            .split("\n[")
            .filter(|part| part.split(']').next().unwrap().ends_with("dependencies"));
        for line in sections.flat_map(|section| section.lines().skip(1)) {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !name.is_empty() && !name.starts_with("eaves") && !name.starts_with('#') {
                used.insert(name);
            }
        }
    }
    assert_eq!(
        listed, used,
        "ARCHITECTURE.md on the left, Cargo.toml files on the right"
    );
}

/// The names in the list of subcommands that `eaves ARGUMENTS --help` prints.
fn subcommands(arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_eaves"))
        .args(arguments)
        .arg("--help")
        .output()
        .expect("the binary starts");
    let help = String::from_utf8(output.stdout).expect("help is text");
    let (_, list) = help
        .split_once("Commands:\n")
        .expect("help lists the commands");
    list.lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next().map(str::to_string))
        .collect()
}

/// The words after each `eaves` in code, in blocks and between backquotes.
fn eaves_commands(text: &str) -> Vec<Vec<&str>> {
    let blocks = text.split("```").skip(1).step_by(2).flat_map(str::lines);
    let in_blocks = blocks.filter_map(|line| line.strip_prefix("$ "));
    in_blocks
        .chain(quoted(text))
        .filter_map(|line| {
            line.strip_prefix("eaves ")
                .or_else(|| line.strip_prefix("cargo run --release -- "))
        })
        .map(|rest| rest.split_whitespace().collect())
        .collect()
}

#[test]
fn the_readmes_commands_are_commands() {
    let top = subcommands(&[]);
    for document in ["README.md", "CHANGELOG.md", "docs/etcd-compatibility.md"] {
        let text = read(document);
        for words in eaves_commands(&text) {
            if document == "docs/etcd-compatibility.md" && words[0] == "promote" {
                continue; // Said there to be missing.
            }
            assert!(
                top.contains(words[0]),
                "{document}: `eaves {}` is no command",
                words.join(" ")
            );
            if words[0] == "bench" {
                let measured = words.get(1).expect("bench of what");
                assert!(
                    subcommands(&["bench"]).contains(*measured),
                    "{document}: `eaves {}` is no command",
                    words.join(" ")
                );
            }
        }
    }
    assert!(eaves_commands(&read("README.md")).len() > 5);
}

/// There is more than one binary, and `cargo run` without `-p` must find the one that the README means.
#[test]
fn cargo_run_is_eaves() {
    assert!(read("README.md").contains("$ cargo run --release -- up"));
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let members = metadata["workspace_default_members"]
        .as_array()
        .expect("there is a list of default members");
    let members: Vec<&str> = members.iter().filter_map(|id| id.as_str()).collect();
    assert!(
        matches!(members[..], [member] if member.contains("crates/server")),
        "{members:?}"
    );
}

/// The README shows how the library is used; the names it uses are the library's.
#[test]
fn the_readmes_code_names_what_exists() {
    let text = read("README.md");
    let code = text
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the README has a piece of code");
    let library = ["node.rs", "config.rs", "small_state.rs"]
        .map(|file| read(&format!("crates/node/src/{file}")))
        .concat();
    for name in [
        "SmallState",
        "fn apply(&mut self, command: &[u8]) -> Bytes",
        "fn to_bytes(&self) -> Bytes",
        "fn from_bytes(bytes: &[u8]) -> io::Result<",
    ] {
        assert!(code.contains(name), "the README's code has no {name}");
        assert!(library.contains(name), "the library has no {name}");
    }
    for call in ["start", "write", "read_barrier"] {
        assert!(code.contains(&format!("{call}(")));
        assert!(
            library.contains(&format!("pub async fn {call}(")),
            "the library has no {call}"
        );
    }
}
