// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A Rust file as the rules see it: code without comments and strings, and
//! which lines are test code. Not a parser: it knows just enough of the lexical
//! grammar (Rust Reference, chapter 2) to blank out what is not code.

use std::path::{Path, PathBuf};

/// One file.
pub struct Source {
    /// Relative to the workspace.
    pub path: PathBuf,
    /// Lines as written.
    pub raw: Vec<String>,
    /// The same lines with comments and the insides of literals blanked.
    pub code: Vec<String>,
    /// Whether each line is test code.
    pub test: Vec<bool>,
}

impl Source {
    /// Reads the text of a file.
    pub fn new(path: &Path, text: &str) -> Self {
        let raw: Vec<String> = text.lines().map(str::to_owned).collect();
        let mut code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        code.resize(raw.len(), String::new());
        let test = if is_test_file(path) {
            vec![true; raw.len()]
        } else {
            test_lines(&code)
        };
        Self {
            path: path.to_owned(),
            raw,
            code,
            test,
        }
    }

    /// Code lines that ship, with their 1-based numbers.
    pub fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .iter()
            .zip(&self.test)
            .enumerate()
            .filter(|(_, (_, test))| !**test)
            .map(|(index, (line, _))| (index + 1, line.as_str()))
    }

    /// The comment lines and attributes right above a line, newest last.
    pub fn comment_above(&self, line: usize) -> String {
        let mut above: Vec<&str> = self.raw[..line - 1]
            .iter()
            .rev()
            .map(|text| text.trim())
            .take_while(|text| text.starts_with("//") || text.starts_with("#["))
            .collect();
        above.reverse();
        above.join(" ")
    }
}

/// Files and folders that hold only tests: `tests.rs`, `test_NAME.rs`, `tests/`.
fn is_test_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    path.starts_with("tests")
        || name.is_some_and(|name| name == "tests.rs" || name.starts_with("test_"))
        || path.parent().is_some_and(|dir| dir.ends_with("tests"))
}

/// Marks `#[cfg(test)]` items up to their closing brace or semicolon.
fn test_lines(code: &[String]) -> Vec<bool> {
    let mut test = vec![false; code.len()];
    let mut depth = 0_usize;
    let mut inside = false;
    let mut opened = false;
    for (line, marked) in code.iter().zip(&mut test) {
        if !inside && line.trim_start().starts_with("#[cfg(test)]") {
            (inside, opened, depth) = (true, false, 0);
        }
        *marked = inside;
        if !inside {
            continue;
        }
        for byte in line.bytes() {
            match byte {
                b'{' => (depth, opened) = (depth + 1, true),
                b'}' => depth = depth.saturating_sub(1),
                b';' if depth == 0 => opened = true,
                _ => {}
            }
        }
        if opened && depth == 0 {
            inside = false;
        }
    }
    test
}

/// Replaces comments and the insides of string and character literals by
/// blanks; line breaks stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => find(bytes, at, |rest| rest[0] == b'\n'),
            b'/' if bytes.get(at + 1) == Some(&b'*') => block_comment(bytes, at),
            b'"' => quoted(bytes, at + 1, b'"'),
            b'r' | b'b' | b'c' if !follows_word(bytes, at) => match raw_string(bytes, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'\'' if is_character(bytes, at) => quoted(bytes, at + 1, b'\''),
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    // Whole literals and comments were replaced, so no character was cut.
    String::from_utf8_lossy(&out).into_owned()
}

fn find(bytes: &[u8], from: usize, wanted: impl Fn(&[u8]) -> bool) -> usize {
    (from..bytes.len())
        .find(|at| wanted(&bytes[*at..]))
        .unwrap_or(bytes.len())
}

/// Block comments nest.
fn block_comment(bytes: &[u8], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0_usize);
    while at < bytes.len() {
        match bytes[at..] {
            [b'/', b'*', ..] => (at, depth) = (at + 2, depth + 1),
            [b'*', b'/', ..] => {
                (at, depth) = (at + 2, depth - 1);
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at.min(bytes.len())
}

fn quoted(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` and the like.
fn raw_string(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    if matches!(bytes[at], b'b' | b'c') {
        at += 1;
    }
    if bytes.get(at) != Some(&b'r') {
        return None;
    }
    at += 1;
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    at += hashes;
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let end = find(bytes, at + 1, |rest| rest.starts_with(&close));
    Some((end + close.len()).min(bytes.len()))
}

fn follows_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

/// A character literal, not a lifetime: it closes after one character or an
/// escape.
fn is_character(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at + 1) {
        Some(b'\\') => true,
        Some(first) => {
            let width = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                0xf0.. => 4,
            };
            bytes.get(at + 1 + width) == Some(&b'\'')
        }
        None => false,
    }
}
