// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first file system of the virtual machine: programs of this machine with
//! the libraries they load, modules of the other kernel, and what is to be run.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use crate::{
    setup::kernel::Kernel,
    task::{self, find_program},
};

/// What goes into the machine.
pub struct Image {
    archive: Archive,
    present: BTreeSet<PathBuf>,
    modules: Vec<String>,
    jobs: String,
}

impl Image {
    /// One that starts with the program `init`.
    ///
    /// # Errors
    ///
    /// When the program or a library of it cannot be read.
    pub fn new(init: &Path) -> Result<Self> {
        let mut image = Self {
            archive: Archive::default(),
            present: BTreeSet::new(),
            modules: Vec::new(),
            jobs: String::new(),
        };
        // Where the kernel opens it before anything is mounted.
        image.archive.device("dev/console", 5, 1);
        image.program_as(init, "init")?;
        Ok(image)
    }

    /// Adds a program as `/bin/NAME`, without what only debuggers read.
    ///
    /// # Errors
    ///
    /// As [`Image::new`].
    pub fn program(&mut self, path: &Path, name: &str) -> Result<()> {
        self.program_as(path, &format!("bin/{name}"))
    }

    /// Adds a program of this machine by its name.
    ///
    /// # Errors
    ///
    /// When it is not installed; as [`Image::new`].
    pub fn installed(&mut self, name: &str) -> Result<()> {
        let path = find_program(name).with_context(|| format!("{name} is not installed"))?;
        self.program(&path, name)
    }

    /// Adds a module of `kernel` and those it needs.
    ///
    /// # Errors
    ///
    /// When the kernel has none of this name.
    pub fn module(&mut self, kernel: &Kernel, name: &str) -> Result<()> {
        let path = find_module(&kernel.modules, name)
            .with_context(|| format!("{} has no module {name}", kernel.image.display()))?;
        let contents = read_module(&path)?;
        for needed in dependencies(&contents) {
            self.module(kernel, &needed)?;
        }
        let inside = format!("modules/{name}.ko");
        if !self.modules.contains(&inside) {
            self.archive.file(&inside, &contents);
            self.modules.push(inside);
        }
        Ok(())
    }

    /// Adds a command to run; words with an equals sign in front of the program
    /// are its environment.
    pub fn job(&mut self, name: &str, words: &[&str]) {
        self.jobs
            .push_str(&format!("{name}\t{}\n", words.join("\t")));
    }

    /// The archive for the kernel.
    pub fn finish(mut self) -> Vec<u8> {
        let modules: String = self
            .modules
            .iter()
            .map(|path| format!("/{path}\n"))
            .collect();
        self.archive.file("etc/modules", modules.as_bytes());
        self.archive.file("etc/jobs", self.jobs.as_bytes());
        self.archive.finish()
    }

    fn program_as(&mut self, path: &Path, inside: &str) -> Result<()> {
        for library in libraries(path)? {
            if self.present.insert(library.clone()) {
                let contents =
                    fs::read(&library).with_context(|| format!("read {}", library.display()))?;
                let inside = library.to_string_lossy();
                self.archive.file(inside.trim_start_matches('/'), &contents);
            }
        }
        let contents = stripped(path)?;
        self.archive.file(inside, &contents);
        Ok(())
    }
}

/// A program without its debug information, where `strip` is at hand.
fn stripped(path: &Path) -> Result<Vec<u8>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = task::target_dir()
        .join("kernels")
        .join(format!("{name}.stripped"));
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&copy)
        .arg(path)
        .output();
    let source = match strip {
        Ok(output) if output.status.success() => copy.as_path(),
        _ => path,
    };
    let contents = fs::read(source).with_context(|| format!("read {}", source.display()))?;
    // It may not have been made.
    let _ = fs::remove_file(&copy);
    Ok(contents)
}

/// The libraries a program loads and the program that loads them, by ldd(1).
fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(path)
        .output()
        .context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // ldd says so of a program that needs none.
        if text.contains("not a dynamic executable") || text.contains("statically linked") {
            return Ok(Vec::new());
        }
        bail!("ldd {}: {}", path.display(), output.status);
    }
    Ok(text.lines().filter_map(library).collect())
}

/// `NAME => /PATH (ADDRESS)`, or `/PATH (ADDRESS)` of the loader.
fn library(line: &str) -> Option<PathBuf> {
    let line = line.trim();
    let path = line.split_once("=> ").map_or(line, |(_, path)| path);
    let path = path.split(" (").next()?;
    path.starts_with('/').then(|| path.into())
}

fn find_module(dir: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find_module(&path, name) {
                return Some(found);
            }
        } else if is_module(&entry.file_name().to_string_lossy(), name) {
            return Some(path);
        }
    }
    None
}

/// `NAME.ko` or `NAME.ko.xz`, in which a dash is as good as an underscore.
fn is_module(file: &str, name: &str) -> bool {
    let stem = file.strip_suffix(".xz").unwrap_or(file).strip_suffix(".ko");
    stem.is_some_and(|stem| stem.replace('-', "_") == name.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let output = Command::new("xz")
        .args(["--decompress", "--stdout"])
        .arg(path)
        .output()
        .context("start xz")?;
    if !output.status.success() {
        bail!("xz could not unpack {}", path.display());
    }
    Ok(output.stdout)
}

/// `depends=a,b` in a module's `.modinfo`: strings that end with a zero byte.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(value.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{dependencies, is_module, library};

    #[test]
    fn libraries_are_read_from_ldd() {
        let paths = [
            "\tlinux-vdso.so.1 (0x00007ffd)",
            "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f)",
            "\tlibgone.so => not found",
        ];
        let found: Vec<_> = paths.into_iter().filter_map(library).collect();
        let expected = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(found, expected.map(std::path::PathBuf::from));
    }

    #[test]
    fn modules_are_found_by_name_and_name_what_they_need() {
        assert!(is_module("sch_ingress.ko", "sch_ingress"));
        assert!(is_module("sch-ingress.ko.xz", "sch_ingress"));
        assert!(!is_module("sch_ingress.ko.map", "sch_ingress"));
        let module = b"\x7fELF..license=GPL\0depends=a,b_c\0name=x\0";
        assert_eq!(dependencies(module), ["a", "b_c"]);
        assert_eq!(dependencies(b"license=GPL\0depends=\0"), [""; 0]);
    }
}
