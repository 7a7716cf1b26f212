// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The archive that a kernel unpacks as its first file system: cpio's "newc"
//! (Documentation/driver-api/early-userspace/buffer-format.rst). Written here
//! because it is a header of numbers in front of each file.

use std::{collections::BTreeSet, fmt::Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive being written.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, executable, and the directories above it. A second file of
    /// this path takes the first one's place when it is unpacked.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.parents(path);
        self.entry(path, FILE, (0, 0), contents);
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.directories.insert(path.to_owned()) {
            self.entry(path, DIRECTORY, (0, 0), &[]);
        }
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE, (major, minor), &[]);
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let mut header = "070701".to_owned();
        for field in [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time of change
            contents.len() as u32,
            0, // device it is on, major and minor
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // no checksum
        ] {
            // Writing to a string does not fail.
            let _ = write!(header, "{field:08X}");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn every_header_starts_at_a_multiple_of_four_and_has_its_name_behind() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"12345");
        archive.file("a/d", b"");
        archive.device("dev/console", 5, 1);
        let bytes = archive.finish();
        let mut seen = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            assert_eq!(&rest[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&rest[6 + index * 8..][..8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap() as usize
            };
            let (size, name_len) = (field(6), field(11));
            let name = std::str::from_utf8(&rest[110..110 + name_len - 1]).unwrap();
            seen.push((name.to_owned(), size));
            let contents = (110 + name_len).next_multiple_of(4);
            rest = &rest[(contents + size).next_multiple_of(4)..];
        }
        let expected = [
            ("a", 0),
            ("a/b", 0),
            ("a/b/c", 5),
            ("a/d", 0),
            ("dev", 0),
            ("dev/console", 0),
            ("TRAILER!!!", 0),
        ];
        assert_eq!(seen, expected.map(|(name, size)| (name.to_owned(), size)));
    }
}
