//! Tables of text with aligned columns.

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Two spaces stand between columns.
const GAP: &str = "  ";

/// Lays out rows under their headings. Every row has as many cells as there are columns; trailing blanks are cut.
pub fn layout(columns: &[(&str, Align)], rows: &[Vec<String>]) -> Vec<String> {
    let headings: Vec<String> = columns
        .iter()
        .map(|(heading, _)| heading.to_string())
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells
            .chain([headings[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    std::iter::once(&headings)
        .chain(rows)
        .map(|row| line(columns, &widths, row))
        .collect()
}

fn line(columns: &[(&str, Align)], widths: &[usize], row: &[String]) -> String {
    assert_eq!(row.len(), columns.len(), "a row has a cell for each column");
    let cells: Vec<String> = row
        .iter()
        .zip(columns)
        .zip(widths)
        .map(|((cell, (_, align)), width)| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        })
        .collect();
    cells.join(GAP).trim_end().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["├─ a".to_string(), "1".to_string()],
            vec!["b".to_string(), "1000".to_string()],
        ];
        let lines = layout(&[("NAME", Align::Left), ("LAG", Align::Right)], &rows);
        assert_eq!(lines, ["NAME   LAG", "├─ a     1", "b     1000"]);
    }
}
