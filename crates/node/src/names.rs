//! What people call a node: finding the one they mean, and naming it in answers.

use crate::error::SteerError;
use crate::status::{Missing, TreePicture, TreeRow};

/// How many names are suggested to who wrote a wrong one.
const SUGGESTED_MAX: usize = 3;

/// Longer texts are compared with no name: the time that takes is the product of both lengths, for every node of the tree, and a client
/// may send a text of megabytes.
const COMPARED_MAX_BYTES: usize = 256;

/// The one row that `text` names: a name that no other node has, or an id in decimal or hexadecimal.
pub(crate) fn find<'a>(picture: &'a TreePicture, text: &str) -> Result<&'a TreeRow, SteerError> {
    let rows = &picture.rows;
    let named: Vec<&TreeRow> = rows.iter().filter(|row| row.name == text).collect();
    match named[..] {
        [row] => return Ok(row),
        [] => {}
        _ => {
            let ids: Vec<String> = named.iter().map(|row| row.id.to_string()).collect();
            return Err(SteerError::Unknown(format!(
                "{} nodes are named {text:?}: give the id, one of {}",
                named.len(),
                ids.join(", ")
            )));
        }
    }
    let by_id = ids(text)
        .into_iter()
        .flatten()
        .find_map(|id| rows.iter().find(|row| row.id == id));
    by_id.ok_or_else(|| silent(picture, text).map_or_else(|| unknown(rows, text), unreachable))
}

/// The id of the one node that `text` names, of one that does not answer too, if the tree knows it.
pub(crate) fn find_id(picture: &TreePicture, text: &str) -> Result<u64, SteerError> {
    match find(picture, text) {
        Ok(row) => Ok(row.id),
        Err(SteerError::Unreachable(why)) => {
            let silent = silent(picture, text).map(|one| one.id);
            silent.ok_or(SteerError::Unreachable(why))
        }
        Err(error) => Err(error),
    }
}

/// A node that did not answer, by its name or id.
fn silent<'a>(picture: &'a TreePicture, text: &str) -> Option<&'a Missing> {
    let ids = ids(text);
    let mut missing = picture.missing.iter();
    missing.find(|one| one.name == text || ids.contains(&Some(one.id)))
}

/// What a text may be as an id.
fn ids(text: &str) -> [Option<u64>; 2] {
    [text.parse().ok(), u64::from_str_radix(text, 16).ok()]
}

fn unreachable(missing: &Missing) -> SteerError {
    let name = match missing.name.is_empty() {
        true => format!("node {}", missing.id),
        false => missing.name.clone(),
    };
    SteerError::Unreachable(format!(
        "{name} at {}: {}",
        missing.peer_address, missing.why
    ))
}

fn unknown(rows: &[TreeRow], text: &str) -> SteerError {
    if text.len() > COMPARED_MAX_BYTES {
        return SteerError::Unknown(format!(
            "no node of the tree has a name of {} bytes: `eaves tree` shows all that can be reached",
            text.len()
        ));
    }
    let mut close: Vec<(usize, &str)> = rows
        .iter()
        .filter(|row| row.name.len() <= COMPARED_MAX_BYTES)
        .map(|row| (distance(&row.name, text), row.name.as_str()))
        .filter(|(distance, name)| *distance <= 1 + text.chars().count() / 4 && !name.is_empty())
        .collect();
    close.sort_unstable();
    close.truncate(SUGGESTED_MAX);
    let close: Vec<&str> = close.into_iter().map(|(_, name)| name).collect();
    let hint = match close.is_empty() {
        true => String::new(),
        false => format!("did you mean {}? ", close.join(" or ")),
    };
    SteerError::Unknown(format!(
        "no node of the tree is called {text:?}: {hint}`eaves tree` shows all that can be reached"
    ))
}

/// What people call a node.
pub(crate) fn label(row: &TreeRow) -> String {
    match row.name.is_empty() {
        true => format!("node {}", row.id),
        false => row.name.clone(),
    }
}

/// How many letters must be changed, added or left out to make one text of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut costs: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.chars().enumerate() {
        let mut diagonal = costs[0];
        costs[0] = row + 1;
        for (column, their) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *their);
            diagonal = costs[column + 1];
            costs[column + 1] = changed.min(diagonal + 1).min(costs[column] + 1);
        }
    }
    costs[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_any_length_is_refused_and_neither_compared_nor_repeated() {
        let text = "x".repeat(1 << 20);
        let error = find(&TreePicture::default(), &text)
            .unwrap_err()
            .to_string();
        assert!(error.len() < 200, "{error}");
    }

    #[test]
    fn distances_are_the_textbooks() {
        for (one, other, expected) in [
            ("", "", 0),
            ("l1", "l1", 0),
            ("l1", "l2", 1),
            ("l1", "l12", 1),
            ("kitten", "sitting", 3),
            ("", "abc", 3),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }
}
