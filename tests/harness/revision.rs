// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A newer version of the agent, made of the one that was built: its kernel
//! programs mean the same and are not the same.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result, ensure};

/// Copies the agent at `binary` to `to`. In the kernel programs every assignment
/// of a constant that is not negative is made a 32-bit one, which clears the
/// upper half as well (RFC 9669 section 4.1): other programs with other tags
/// that do the same.
///
/// # Errors
///
/// When the file holds no kernel programs, or they look other than expected.
pub fn revise(binary: &Path, to: &Path) -> Result<()> {
    let mut bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let start = object(&bytes).context("no eBPF object in the agent")?;
    let sections = code_sections(&bytes[start..]).context("the eBPF object is cut off")?;
    ensure!(!sections.is_empty(), "no code in the eBPF object");
    for (offset, length) in sections {
        let code = &mut bytes[start + offset..start + offset + length];
        ensure!(revise_code(code), "no constant to assign in a program");
    }
    fs::write(to, bytes)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where the ELF file for the machine EM_BPF begins.
fn object(bytes: &[u8]) -> Option<usize> {
    // 64 bits, little-endian.
    let magic = b"\x7fELF\x02\x01\x01";
    let is_object =
        |at: &usize| bytes[*at..].starts_with(magic) && u16_at(&bytes[*at..], 18) == Some(EM_BPF);
    (0..bytes.len())
        .filter(|at| bytes[*at] == 0x7f)
        .find(is_object)
}

/// Offset and length of the sections with instructions (ELF-64 object file
/// format, "Sections").
fn code_sections(elf: &[u8]) -> Option<Vec<(usize, usize)>> {
    let table = u64_at(elf, 0x28)?;
    let size = usize::from(u16_at(elf, 0x3a)?);
    let count = usize::from(u16_at(elf, 0x3c)?);
    let mut sections = Vec::new();
    for index in 0..count {
        let header = elf.get(table + index * size..)?;
        let is_code = u64_at(header, 8)? & SHF_EXECINSTR != 0;
        let (offset, length) = (u64_at(header, 0x18)?, u64_at(header, 0x20)?);
        if is_code && length > 0 {
            elf.get(offset..offset + length)?;
            sections.push((offset, length));
        }
    }
    Some(sections)
}

/// Changes all that fit; false when there is none.
fn revise_code(code: &mut [u8]) -> bool {
    let mut changed = false;
    let mut skip = false;
    for instruction in code.chunks_exact_mut(8) {
        if std::mem::replace(&mut skip, instruction[0] == LOAD_IMMEDIATE_64) {
            // The second half of the one before.
            skip = false;
            continue;
        }
        // The sign is in the last byte.
        if instruction[0] == MOVE_IMMEDIATE_64 && instruction[7] < 0x80 {
            instruction[0] = MOVE_IMMEDIATE_32;
            changed = true;
        }
    }
    changed
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset + 2)?;
    Some(u16::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<usize> {
    let field = bytes.get(offset..offset + 8)?;
    usize::try_from(u64::from_le_bytes(field.try_into().ok()?)).ok()
}

const EM_BPF: u16 = 247;
const SHF_EXECINSTR: usize = 4;
// RFC 9669, appendix A.
const LOAD_IMMEDIATE_64: u8 = 0x18;
const MOVE_IMMEDIATE_64: u8 = 0xb7;
const MOVE_IMMEDIATE_32: u8 = 0xb4;

#[cfg(test)]
mod tests {
    use super::revise_code;

    #[test]
    fn only_assignments_that_mean_the_same_are_changed() {
        // A 64-bit load whose second half looks like an assignment, then an
        // assignment of -1, then one of 1.
        let mut code = [
            [0x18, 1, 0, 0, 0, 0, 0, 0],
            [0xb7, 0, 0, 0, 1, 0, 0, 0],
            [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            [0xb7, 0, 0, 0, 1, 0, 0, 0],
        ]
        .concat();
        let before = code.clone();
        assert!(revise_code(&mut code));
        let changed: Vec<usize> = (0..code.len()).filter(|i| code[*i] != before[*i]).collect();
        assert_eq!(changed, [24]);
        assert!(!revise_code(&mut code[..24]));
    }
}
