//! Two verifiers that are not ours: dkimpy from PyPI in a virtual environment, and Debian's OpenDKIM, unpacked.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::packages::{library_path, run, unpack};

/// OpenDKIM reads so many files in one run.
const BATCH: usize = 25;

/// Both, ready.
pub struct Verifiers {
    python: PathBuf,
    root: PathBuf,
}

/// Which signatures of a file hold, from the top.
pub type Verdicts = BTreeMap<String, Vec<bool>>;

impl Verifiers {
    /// Gets them. An error says what cannot be had.
    pub fn prepare(folder: &Path) -> Result<Self, String> {
        // Another test program may want them at the same time.
        let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("verifiers.lock"));
        let _lock = lock.and_then(|lock| lock.lock().map(|()| lock)).map_err(|error| error.to_string())?;
        let root = folder.join("root");
        unpack(&root, "dkim-packages", &["opendkim"])?;
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dkimpy");
        let python = venv.join("bin/python");
        if !venv.join("complete").exists() {
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "dkimpy==1.1.8", "pynacl"];
            run(Command::new(&python).args(pip))?;
            std::fs::write(venv.join("complete"), "").map_err(|error| error.to_string())?;
        }
        Ok(Self { python, root })
    }

    /// What dkimpy says.
    pub fn dkimpy(&self, keys: &Path, folder: &Path) -> Verdicts {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dkim/verify.py");
        let said = run(Command::new(&self.python).arg(script).arg(keys).arg(folder)).unwrap();
        let mut verdicts = Verdicts::new();
        for line in said.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            verdicts.entry(words[0].to_owned()).or_default().push(words[2] == "True");
        }
        verdicts
    }

    /// What OpenDKIM says, in the Authentication-Results field that it would add.
    pub fn opendkim(&self, keys: &Path, folder: &Path) -> Verdicts {
        let config = self.root.join("opendkim.conf");
        let text = "Mode v\nAlwaysAddARHeader yes\nAuthservID test\nSyslog no\nMaximumHeaders 0\nTestPublicKeys ";
        std::fs::write(&config, format!("{text}{}\n", keys.display())).unwrap();
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let mut verdicts = Verdicts::new();
        for batch in files.chunks(BATCH) {
            let list = batch.iter().map(|file| file.to_str().unwrap()).collect::<Vec<_>>().join(",");
            let mut command = Command::new(self.root.join("usr/sbin/opendkim"));
            command.env("LD_LIBRARY_PATH", library_path(&self.root));
            // A signature that fails makes it end with an error, which is a verdict here.
            let output = command.arg("-x").arg(&config).args(["-v", "-v", "-t", &list]).output().unwrap();
            read(&String::from_utf8_lossy(&output.stdout), &mut verdicts);
        }
        verdicts
    }
}

/// The field that it would add comes before the line that tells of which file.
fn read(said: &str, verdicts: &mut Verdicts) {
    let mut is_inside = false;
    let mut results = Vec::new();
    for line in said.lines() {
        let name = line.strip_prefix("opendkim: ").and_then(|rest| rest.split(": ").next()).map(Path::new);
        if let Some(path) = name.filter(|path| path.is_absolute()) {
            let file = path.file_name().map(|name| name.to_str().unwrap().to_owned());
            verdicts.entry(file.unwrap()).or_default().append(&mut results);
        }
        is_inside |= line.starts_with("### INSHEADER") && line.contains("Authentication-Results");
        if is_inside {
            let signatures = line.split(';').filter(|part| part.contains("header.s="));
            results.extend(signatures.map(|part| part.trim().starts_with("dkim=pass")));
            is_inside = !line.ends_with('\'');
        }
    }
    assert!(results.is_empty(), "{said}");
}
