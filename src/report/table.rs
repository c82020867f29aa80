//! Tables in a terminal: any, and the best block of every n.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::shown::shown;

/// The head of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    name: String,
    alignment: CellAlignment,
}

impl Column {
    /// Words: they start below each other.
    #[must_use]
    pub fn left(name: &str) -> Self {
        Self { name: name.to_owned(), alignment: CellAlignment::Left }
    }

    /// Numbers: they end below each other.
    #[must_use]
    pub fn right(name: &str) -> Self {
        Self { name: name.to_owned(), alignment: CellAlignment::Right }
    }
}

/// A table with a line under its head.
#[must_use]
pub fn table(head: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let cell = |column: &Column, text: &str| Cell::new(shown(text)).set_alignment(column.alignment);
    table.set_header(head.iter().map(|column| cell(column, &column.name)));
    for row in rows {
        table.add_row(head.iter().zip(&row).map(|(column, text)| cell(column, text)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    lines.insert(1, "─".repeat(width));
    lines.join("\n") + "\n"
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct BestRow {
    /// Layers dropped, n.
    pub n: usize,
    /// Which: `21..=28`.
    pub drop: String,
    /// Score and its standard error.
    pub score: (f64, Option<f64>),
    /// What would come next, how much worse it is, and the standard error of that.
    pub runner_up: Option<(String, f64, Option<f64>)>,
    /// How many others cannot be told from the best.
    pub rivals: usize,
    /// The plan follows it.
    pub is_chosen: bool,
}

/// The table, a line for each row, under a head that calls the scores `measure`.
#[must_use]
pub(crate) fn best_table(measure: &str, rows: &[BestRow]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["n", "drop", measure, "runner-up", "worse by", ""]);
    for row in rows {
        let (name, worse) = match &row.runner_up {
            Some((name, difference, error)) => (name.as_str(), with_error(*difference, *error)),
            None => ("", String::new()),
        };
        let rivals = match row.rivals {
            0 => "",
            1 => "1 other within the error",
            _ => "others within the error",
        };
        let rivals = if row.rivals > 1 { format!("{} {rivals}", row.rivals) } else { rivals.to_owned() };
        let note = match (row.is_chosen, rivals.is_empty()) {
            (true, true) => "<- plan".to_owned(),
            (true, false) => format!("<- plan; {rivals}"),
            (false, _) => rivals,
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let (score, error) = row.score;
        table.add_row([
            right(row.n.to_string()),
            Cell::new(&row.drop),
            Cell::new(with_error(score, error)),
            Cell::new(name),
            Cell::new(worse),
            Cell::new(note),
        ]);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

/// `0.2137 ± 0.0012`: the error with two digits, the value to the same place.
pub(crate) fn with_error(value: f64, error: Option<f64>) -> String {
    match error {
        None => format!("{value:.4}"),
        Some(error) => {
            let digits = if error > 0.0 { (1.0 - error.log10().floor()).clamp(2.0, 6.0) as usize } else { 4 };
            format!("{value:.digits$} ± {error:.digits$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_left_numbers_right() {
        let head = [Column::left("model"), Column::right("loss")];
        let text =
            table(&head, [vec!["dense".to_owned(), "1.5".to_owned()], vec!["cut".to_owned(), "12.25".to_owned()]]);
        assert_eq!(text, "model   loss\n────────────\ndense    1.5\ncut    12.25\n");
    }

    #[test]
    fn a_line_for_each_n() {
        let rows = [
            BestRow {
                n: 1,
                drop: "23".into(),
                score: (0.05, Some(0.00123)),
                runner_up: Some(("24".into(), 0.0004, Some(0.00051))),
                rivals: 1,
                is_chosen: false,
            },
            BestRow {
                n: 8,
                drop: "21..=28".into(),
                score: (0.2137, Some(0.0012)),
                runner_up: Some(("20..=27".into(), 0.01, Some(0.002))),
                rivals: 0,
                is_chosen: true,
            },
            BestRow { n: 31, drop: "1..=31".into(), score: (0.4, None), runner_up: None, rivals: 0, is_chosen: false },
        ];
        let table = best_table("angular", &rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[0].split_whitespace().collect::<Vec<_>>(),
            ["n", "drop", "angular", "runner-up", "worse", "by"]
        );
        assert!(lines[1].contains("0.0500 ± 0.0012") && lines[1].contains("0.00040 ± 0.00051"), "{table}");
        assert!(lines[1].ends_with("1 other within the error"));
        assert!(lines[2].contains("21..=28") && lines[2].ends_with("<- plan"));
        assert!(lines[3].ends_with("0.4000"));
        // columns stand below each other
        assert_eq!(lines[1].find("0.0500"), lines[2].find("0.2137"));
    }
}
