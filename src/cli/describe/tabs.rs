//! Elastic tab stops, as Go's text/tabwriter sets them: a column is as wide as its widest cell in the run of lines that have it.

/// kubectl's distance between columns when describing.
const PADDING: usize = 2;

/// Replaces tabs by blanks. A cell is what a tab ends; cells of neighbouring lines line up, and what ends a line is no cell.
pub fn align(text: &str) -> String {
    let mut lines: Vec<Vec<String>> = text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        for block in lines.chunk_by_mut(|a, b| a.len().min(b.len()) > column + 1) {
            if block[0].len() <= column + 1 {
                continue;
            }
            let width = PADDING + block.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            for line in block {
                let pad = width - line[column].chars().count();
                line[column].extend(std::iter::repeat_n(' ', pad));
            }
        }
    }
    lines.iter().fold(String::new(), |out, line| out + &line.concat() + "\n")
}

#[cfg(test)]
mod tests {
    #[test]
    fn neighbours_line_up_and_others_do_not() {
        let text = "Name:\tweb\nNamespace:\t\nEvents:\n  A:\t\tc\n  long:\t\td\n";
        assert_eq!(super::align(text), "Name:       web\nNamespace:  \nEvents:\n  A:       c\n  long:    d\n");
    }
}
