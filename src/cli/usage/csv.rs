//! Tables of texts as RFC 4180 has them.

/// A record as one line.
pub(super) fn line(cells: &[String]) -> String {
    let quoted = |cell: &String| match cell.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    };
    let cells: Vec<String> = cells.iter().map(quoted).collect();
    cells.join(",") + "\n"
}

/// All records of a text; empty lines are none.
///
/// # Errors
/// The line of a quote that isn't closed, or of text behind one that is.
pub(super) fn read(text: &str) -> Result<Vec<Vec<String>>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut records, mut record) = (Vec::new(), Vec::new());
    let mut chars = text.chars().peekable();
    let mut number = 1;
    loop {
        let mut cell = String::new();
        if chars.next_if_eq(&'"').is_some() {
            let begun = number;
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => cell.push('"'),
                    Some('"') => break,
                    Some(c) => {
                        number += usize::from(c == '\n');
                        cell.push(c);
                    }
                    None => return Err(format!("line {begun}: a quote isn't closed")),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '\n' | '\r')) {
                cell.push(c);
            }
        }
        record.push(cell);
        match chars.next() {
            Some(',') => continue,
            None | Some('\n' | '\r') => {}
            Some(_) => return Err(format!("line {number}: text behind a quote")),
        }
        chars.next_if_eq(&'\n');
        number += 1;
        if record != [""] {
            records.push(std::mem::take(&mut record));
        }
        record.clear();
        if chars.peek().is_none() {
            return Ok(records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let cells = ["", "a", "b,c", "say \"hi\"", "two\nlines"].map(str::to_owned);
        let text = line(&cells) + &line(&cells[1..3]);
        assert_eq!(read(&text).unwrap(), [cells.to_vec(), cells[1..3].to_vec()]);
    }

    #[test]
    fn other_ends_of_lines_are_read_and_bad_quotes_told() {
        let expected = [vec!["a", "b"], vec!["1", ""]];
        assert_eq!(read("\u{feff}a,b\r\n\r\n1,\r\n").unwrap(), expected);
        assert_eq!(read("a,b\n1,").unwrap(), expected);
        assert!(read("").unwrap().is_empty());
        assert!(read("a\n\"b").unwrap_err().starts_with("line 2"));
        assert!(read("\"a\"b").is_err());
    }
}
