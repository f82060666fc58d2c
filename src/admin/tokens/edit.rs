//! Changing the tokens' file for the command line: a line is added or taken away, all others stay as they are.

use std::path::{Path, PathBuf};

use super::file::{FileError, Table, Token, is_name};
use crate::trusted::rewrite::{self, rewrite, text};
use crate::trusted::watched::Content;

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It has a mistake.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be read or written.
    #[error(transparent)]
    Rewrite(#[from] rewrite::Error),
    /// Not a name.
    #[error("{0:?} is no name; allowed: 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-'")]
    Name(String),
    /// No such token.
    #[error("{}: there is no token {name:?}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// There is one already.
    #[error("{}: there is a token {name:?} already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
}

/// Adds a token. The file is on stable storage then, or as it was. A file that is new gets the group that reads it. Blocks.
pub fn add(path: &Path, token: &Token, reader: Option<u32>) -> Result<(), EditError> {
    if !is_name(&token.name) {
        return Err(EditError::Name(token.name.to_string()));
    }
    rewrite(path, reader, |before| {
        if Table::parse(before, path)?.named(&token.name).is_some() {
            return Err(EditError::Exists { path: path.to_owned(), name: token.name.to_string() });
        }
        let end = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
        let after = format!("{before}{end}{}\n", token.line());
        Table::parse(&after, path)?;
        Ok(after)
    })
}

/// Takes a token away. Blocks.
pub fn remove(path: &Path, name: &str) -> Result<(), EditError> {
    rewrite(path, None, |before| {
        if Table::parse(before, path)?.named(name).is_none() {
            return Err(EditError::Unknown { path: path.to_owned(), name: name.to_owned() });
        }
        let is_its = |line: &&str| matches!(Token::parse(line), Some(Ok(token)) if *token.name == *name);
        Ok(before.split_inclusive('\n').filter(|line| !is_its(line)).collect())
    })
}

/// Every token of a file, for who may change it. Blocks on the disk.
pub fn read(path: &Path) -> Result<Table, EditError> {
    Ok(Table::parse(&text(path)?, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Role;

    #[test]
    fn a_line_is_added_or_taken_away_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let token = |name: &str| Token::generate(name, Role::Viewer, Vec::new()).unwrap().0;

        add(&path, &token("a"), None).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("# ours\n{first}")).unwrap();
        add(&path, &token("b"), None).unwrap();
        assert_eq!(read(&path).unwrap().entries(), 2);
        assert!(matches!(add(&path, &token("a"), None), Err(EditError::Exists { .. })));
        assert!(matches!(add(&path, &token("a b"), None), Err(EditError::Name(_))));
        remove(&path, "b").unwrap();
        assert!(matches!(remove(&path, "b"), Err(EditError::Unknown { .. })));

        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("# ours\n{first}"));
    }
}
