//! The parts of a Markdown text that can be checked: marked blocks of code, and tables.

/// A block of code between two fences.
#[derive(Debug)]
pub(crate) struct Block {
    /// What stands behind the first fence.
    pub(crate) info: Vec<String>,
    /// The number of the line of the first fence.
    pub(crate) line: usize,
    /// The lines between the fences.
    pub(crate) lines: Vec<String>,
}

/// A table.
#[derive(Debug)]
pub(crate) struct Table {
    /// The number of its first line.
    pub(crate) line: usize,
    /// What its columns are called.
    pub(crate) header: Vec<String>,
    /// Its rows, each with as many cells as the header.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    /// The place of the column with this name.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.header.iter().position(|column| column == name)
    }
}

/// The blocks of code whose first word behind the fence is `kind`.
pub(crate) fn blocks(text: &str, kind: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (line, content) in (1..).zip(text.lines()) {
        match (&mut open, content.strip_prefix("```")) {
            (None, Some(info)) => {
                let info = info.split_whitespace().map(str::to_owned).collect();
                open = Some(Block { info, line, lines: Vec::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(block), None) => block.lines.push(content.to_owned()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    found.retain(|block| block.info.first().is_some_and(|word| word == kind));
    found
}

/// All tables.
pub(crate) fn tables(text: &str) -> Vec<Table> {
    let mut found: Vec<Table> = Vec::new();
    let mut is_in_table = false;
    for (line, content) in (1..).zip(text.lines()) {
        let Some(cells) = cells(content) else {
            is_in_table = false;
            continue;
        };
        match found.last_mut().filter(|_table| is_in_table) {
            None => found.push(Table { line, header: cells, rows: Vec::new() }),
            Some(_table) if cells.iter().all(|cell| cell.trim_matches('-').is_empty()) => {}
            Some(table) => {
                assert_eq!(
                    cells.len(),
                    table.header.len(),
                    "line {line}: as many cells as columns"
                );
                table.rows.push(cells);
            }
        }
        is_in_table = true;
    }
    found
}

/// The paragraphs and items of lists, each in one piece: neither code nor tables.
pub(crate) fn sentences(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let mut is_code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !line.starts_with('|') {
            let begins = line.is_empty() || line.trim_start().starts_with("- ");
            match found.last_mut().filter(|_last| !begins) {
                Some(last) => last.extend([" ", line.trim()]),
                None => found.push(line.trim().to_owned()),
            }
        }
    }
    found
}

fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// The words between backticks.
pub(crate) fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}
