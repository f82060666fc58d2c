//! Debian's packages unpacked into a private folder: Exim and Postfix, installed, would remove each other.
//!
//! Packages are downloaded once (the cache is below the target directory) with those of their libraries that the system
//! lacks. Nothing is installed.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Downloads packages that are not in the cache of this name yet, and unpacks them into `root`. An error says what cannot be
/// had.
pub fn unpack(root: &Path, cache: &str, packages: &[&str]) -> Result<(), String> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(cache);
    if !cache.join("complete").exists() {
        download(&cache, packages)?;
    }
    std::fs::create_dir_all(root).map_err(|error| error.to_string())?;
    let entries = std::fs::read_dir(&cache).map_err(|error| error.to_string())?;
    for path in entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "deb")) {
        run(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
    }
    Ok(())
}

fn download(cache: &Path, packages: &[&str]) -> Result<(), String> {
    std::fs::create_dir_all(cache).map_err(|error| error.to_string())?;
    let fetch = || {
        let wanted = packages.iter().map(|name| (*name).to_owned()).chain(libraries(packages)?);
        run(Command::new("apt-get").arg("download").args(wanted).current_dir(cache))
    };
    // The lists may be absent, or older than what the mirrors still have.
    if fetch().is_err() {
        run(Command::new("apt-get").args(["update", "-qq"]))?;
        fetch()?;
    }
    std::fs::write(cache.join("complete"), "").map_err(|error| error.to_string())
}

/// Libraries that the packages need and the system lacks.
fn libraries(packages: &[&str]) -> Result<Vec<String>, String> {
    let only = ["--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances"];
    let tree = run(Command::new("apt-cache").args(["depends", "--recurse"]).args(only).args(packages))?;
    let mut names: Vec<&str> = tree.lines().filter(|line| line.starts_with("lib")).collect();
    names.sort_unstable();
    names.dedup();
    let is_missing = |name: &&str| !is_installed(name) && !name.ends_with("-perl") && !name.starts_with("libc6");
    Ok(names.into_iter().filter(is_missing).map(str::to_owned).collect())
}

fn is_installed(name: &str) -> bool {
    run(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", name]))
        .is_ok_and(|status| status.starts_with("installed"))
}

/// Where shared libraries of the unpacked packages are, for LD_LIBRARY_PATH.
pub fn library_path(root: &Path) -> String {
    let mut folders = vec![root.join("usr/lib/postfix"), root.join("usr/lib")];
    for parent in ["usr/lib", "lib"] {
        let entries = std::fs::read_dir(root.join(parent)).into_iter().flatten();
        folders.extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.ends_with(triplet())));
    }
    folders.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>().join(":")
}

/// A shared library in the unpacked packages.
pub fn library(root: &Path, name: &str) -> PathBuf {
    root.join("usr/lib").join(triplet()).join(name)
}

fn triplet() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

/// The standard output of a command that succeeds.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        let program = command.get_program().display().to_string();
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
