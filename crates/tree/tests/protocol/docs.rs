//! The table rule -> code -> test of `docs/listener-tree.md` is complete and true: one row for each rule, every file it names
//! exists, the code names the rule, and the tests are there.

use std::path::{Path, PathBuf};

struct Row {
    rule: String,
    code: String,
    test: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows() -> Vec<Row> {
    let text =
        std::fs::read_to_string(root().join("docs/listener-tree.md")).expect("the document exists");
    let table = text
        .split("| rule | code | test |")
        .nth(1)
        .expect("the document has the table");
    let lines = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let cells: Vec<String> = line
                .trim_matches('|')
                .split('|')
                .map(|cell| cell.trim().to_string())
                .collect();
            let [rule, code, test] = cells
                .try_into()
                .unwrap_or_else(|_| panic!("not three cells: {line}"));
            Row { rule, code, test }
        })
        .collect()
}

/// What stands between backquotes.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Whether the text has the word, not as a part of a longer one: S1 is not in S13.
fn names(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        ![before, after]
            .into_iter()
            .flatten()
            .any(char::is_alphanumeric)
    })
}

#[test]
fn there_is_one_row_for_each_rule() {
    let rules: Vec<String> = (1..=16)
        .map(|n| format!("S{n}"))
        .chain((1..=19).map(|n| format!("B{n}")))
        .collect();
    assert_eq!(rules.len(), 35);
    assert_eq!(
        rows().into_iter().map(|row| row.rule).collect::<Vec<_>>(),
        rules
    );
}

#[test]
fn named_code_exists_and_names_its_rule() {
    for Row { rule, code, .. } in rows() {
        let files = quoted(&code);
        assert!(
            code == "not yet" || !files.is_empty(),
            "{rule}: name a file in backquotes, or say `not yet`"
        );
        for file in files {
            let text = std::fs::read_to_string(root().join(file))
                .unwrap_or_else(|error| panic!("{rule}: {file}: {error}"));
            assert!(names(&text, &rule), "{rule}: {file} does not name the rule");
        }
    }
}

#[test]
fn named_tests_exist() {
    for Row { rule, code, test } in rows() {
        let tests = quoted(&test);
        assert!(
            test == "not yet" || !tests.is_empty(),
            "{rule}: name a test in backquotes, or say `not yet`"
        );
        assert_eq!(
            test == "not yet",
            code == "not yet",
            "{rule}: code without a test, or a test without code"
        );
        for name in tests {
            let (file, function) = name
                .split_once("::")
                .map_or((name, None), |(file, function)| (file, Some(function)));
            let text = std::fs::read_to_string(root().join(file))
                .unwrap_or_else(|error| panic!("{rule}: {file}: {error}"));
            let found = function.is_none_or(|function| text.contains(&format!("fn {function}(")));
            assert!(
                found,
                "{rule}: {file} has no test {}",
                function.unwrap_or_default()
            );
        }
    }
}
