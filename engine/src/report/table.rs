//! Numbers in columns.

use selfplay_records::shown::quoted;

/// Characters of a line, as terminals have them at least.
const WIDTH: usize = 80;
/// Characters of one cell: a table of two columns fits the line.
const WIDEST_CELL: usize = 38;

/// Right-aligned columns but for the first, two spaces between. What does not fit 80 characters goes on in further blocks, each with the first column again.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let count = cells.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        cells.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let blocks = blocks(&widths);
    let blocks = blocks.iter().map(|columns| block(&cells, &widths, columns));
    blocks.collect::<Vec<_>>().join("\n")
}

/// A cell as one line that is not too long.
fn shown(cell: &str) -> String {
    match quoted(cell) {
        cell if cell.chars().count() <= WIDEST_CELL => cell,
        // Both ends: paths differ at the end, and long lists at either.
        cell => {
            let half = (WIDEST_CELL - 1) / 2;
            let start: String = cell.chars().take(half).collect();
            let end: String = cell.chars().skip(cell.chars().count() - half).collect();
            format!("{start}…{end}")
        }
    }
}

/// The columns of each block, the first among them.
fn blocks(widths: &[usize]) -> Vec<Vec<usize>> {
    let first = widths.first().copied().unwrap_or(0);
    let mut blocks = vec![vec![0]];
    let mut used = first;
    for (column, width) in widths.iter().enumerate().skip(1) {
        let full = used + 2 + width > WIDTH;
        if full && blocks.last().is_some_and(|block| block.len() > 1) {
            blocks.push(vec![0]);
            used = first;
        }
        if let Some(block) = blocks.last_mut() {
            block.push(column);
        }
        used += 2 + width;
    }
    blocks
}

fn block(lines: &[Vec<String>], widths: &[usize], columns: &[usize]) -> String {
    let mut text = String::new();
    for line in lines {
        let cells =
            columns.iter().filter_map(|&column| Some((column, line.get(column)?))).map(|(column, cell)| {
                let padding = " ".repeat(widths[column].saturating_sub(cell.chars().count()));
                if column == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") }
            });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
        let text = columns(&[row(&["a", "long"]), row(&["bcd", "é"])]);
        assert_eq!(text, "a    long\nbcd     é\n");
    }

    #[test]
    fn tables_fit_eighty_columns_and_cells_are_one_line() {
        let row = |text: &str| (0..14).map(|column| format!("{text}{column}")).collect::<Vec<_>>();
        let mut rows = vec![
            row("column "),
            row("a\u{1b}[2J\n"),
            row("runs/with/a/very/long/path/that/differs/at/its/end/"),
        ];
        rows[1][0] = "start".to_owned();
        rows[2][0] = "1".to_owned();
        let text = columns(&rows);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
        for column in 1..14 {
            assert!(text.contains(&format!("end/{column}")), "{text}");
        }
        assert_eq!(text.matches("start").count(), text.matches("\n\n").count() + 1);
    }
}
