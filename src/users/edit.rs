//! Changing the users file for the command line, as little of it as can be: comments and order stay.
//!
//! A text is changed line by line: an entry is what stands from its `[[user]]` up to the next table. That reads what people
//! and this module write, but not all of TOML, so every result is read again and compared: if anything else than what was
//! asked for would change, nothing is written and [`EditError::Form`] tells to edit by hand.

use std::path::{Path, PathBuf};

use super::file::{FileError, Table};
use super::prep::prepare;
use crate::trusted::rewrite::{self, rewrite, text};
use crate::trusted::watched::Content;

/// What is written of a user; what is `None` is not written.
#[derive(Clone, Debug, Default)]
pub struct NewUser {
    /// Their name.
    pub name: String,
    /// Their tenant.
    pub tenant: String,
    /// PHC string.
    pub password: Option<String>,
    /// RFC 5803.
    pub scram: Option<String>,
    /// Patterns.
    pub senders: Vec<String>,
    /// Networks.
    pub networks: Vec<String>,
    /// Certificates.
    pub certificates: Vec<String>,
    /// Messages a minute.
    pub messages_per_minute: Option<u32>,
    /// Recipients a day.
    pub recipients_per_day: Option<u32>,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Edit {
    /// A new user.
    Add(NewUser),
    /// Other ways to come in by password: PHC string, and keys for SCRAM where they are wanted; without, they are taken away.
    Password {
        /// Whose.
        name: String,
        /// PHC string.
        password: String,
        /// RFC 5803.
        scram: Option<String>,
    },
    /// They are gone.
    Remove(String),
    /// They may come in no more, or again.
    Disable(String, bool),
}

impl Edit {
    fn name(&self) -> &str {
        match self {
            Self::Add(user) => &user.name,
            Self::Password { name, .. } | Self::Remove(name) | Self::Disable(name, _) => name,
        }
    }
}

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It has a mistake, or would have.
    #[error(transparent)]
    File(#[from] FileError),
    /// No such user.
    #[error("{}: there is no user {name:?}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// There is one already.
    #[error("{}: there is a user {name:?} already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
    },
    /// It is written in a way that this cannot change.
    #[error("{}: it is not written as this command can change it (one [[user]] table each, one line a key); edit it by hand", path.display())]
    Form {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read or written.
    #[error(transparent)]
    Rewrite(#[from] rewrite::Error),
}

/// Makes a change; the file is on stable storage then, or as it was. Whoever changes it at the same time waits. A file that
/// is new gets the group that reads it. Blocks.
pub fn edit(path: &Path, edit: &Edit, reader: Option<u32>) -> Result<(), EditError> {
    rewrite(path, reader, |before| edited(before, edit, path))
}

/// Everybody of a file, for who may change it. Blocks on the disk.
pub fn read(path: &Path) -> Result<Table, EditError> {
    Ok(Table::parse(&text(path)?, path)?)
}

/// A text with the change made, checked; `path` is for messages.
fn edited(text: &str, edit: &Edit, path: &Path) -> Result<String, EditError> {
    let before = Table::parse(text, path)?;
    let (path, name) = (path.to_owned(), edit.name().to_owned());
    let user = prepare(&name).and_then(|name| before.get(&name).cloned());
    let changed = match (edit, &user) {
        (Edit::Add(_), Some(_)) => return Err(EditError::Exists { path, name }),
        (Edit::Add(new), None) => added(text, new),
        (_, None) => return Err(EditError::Unknown { path, name }),
        (edit, Some(user)) => {
            let place = entry(text, &user.name).ok_or_else(|| EditError::Form { path: path.clone() })?;
            changed(text, place, edit)
        }
    };
    let after = Table::parse(&changed, &path)?;
    let is_right = is_as_asked(&before, &after, edit);
    if is_right { Ok(changed) } else { Err(EditError::Form { path }) }
}

/// Whether nothing has changed but what should.
fn is_as_asked(before: &Table, after: &Table, edit: &Edit) -> bool {
    let name = prepare(edit.name()).unwrap_or_default();
    let others = |one: &Table, other: &Table| {
        one.users().filter(|user| *user.name != *name).all(|user| other.get(&user.name) == Some(user))
    };
    let is_one_right = match (edit, before.get(&name), after.get(&name)) {
        (Edit::Add(_), None, Some(_)) | (Edit::Remove(_), Some(_), None) => true,
        (Edit::Disable(_, is_disabled), Some(before), Some(after)) => {
            let mut wanted = (**before).clone();
            wanted.is_disabled = *is_disabled;
            wanted == **after
        }
        (Edit::Password { password, scram, .. }, Some(before), Some(after)) => {
            let mut wanted = (**before).clone();
            wanted.password = password.parse().ok();
            wanted.scram = scram.as_ref().and_then(|scram| scram.parse().ok());
            wanted == **after
        }
        _ => false,
    };
    is_one_right && others(before, after) && others(after, before)
}

fn added(text: &str, new: &NewUser) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let list = |texts: &[String]| format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "));
    let some = |texts: &[String]| (!texts.is_empty()).then(|| list(texts));
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    let lines = [
        ("name", Some(quoted(&new.name))),
        ("tenant", Some(quoted(&new.tenant))),
        ("password", new.password.as_deref().map(quoted)),
        ("scram", new.scram.as_deref().map(quoted)),
        ("senders", Some(list(&new.senders))),
        ("networks", some(&new.networks)),
        ("certificates", some(&new.certificates)),
        ("messages_per_minute", number(new.messages_per_minute)),
        ("recipients_per_day", number(new.recipients_per_day)),
    ];
    let mut out = text.to_owned();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(if out.is_empty() { "[[user]]\n" } else { "\n[[user]]\n" });
    for (key, value) in lines {
        out.extend(value.into_iter().map(|value| format!("{key} = {value}\n")));
    }
    out
}

/// The lines of a user's entry: from `[[user]]` up to the next table, without comments and empty lines before that.
fn entry(text: &str, name: &str) -> Option<std::ops::Range<usize>> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let is_table = |line: &&str| line.trim_start().starts_with('[') && !line.contains('=');
    let starts: Vec<usize> = (0..lines.len()).filter(|at| lines.get(*at).is_some_and(is_table)).collect();
    let of = |(at, start): (usize, &usize)| {
        let next = starts.get(at + 1).copied().unwrap_or(lines.len());
        let part = lines.get(*start..next)?;
        let kept = part.iter().rposition(|line| !(line.trim().is_empty() || line.trim_start().starts_with('#')))? + 1;
        let table: toml::Table = toml::from_str(&part.concat()).ok()?;
        let own = table.get("user")?.as_array()?.first()?.get("name")?.as_str().and_then(prepare)?;
        (own == name).then_some(*start..start + kept)
    };
    starts.iter().enumerate().find_map(of)
}

fn changed(text: &str, place: std::ops::Range<usize>, edit: &Edit) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let part = |range: std::ops::Range<usize>| lines.get(range).unwrap_or_default().concat();
    let (head, own, tail) = (part(0..place.start), part(place.clone()), part(place.end..lines.len()));
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let own = match edit {
        // The empty line that stood before the entry goes with it.
        Edit::Remove(_) => {
            let head = head.strip_suffix("\n\n").map_or(head.clone(), |head| format!("{head}\n"));
            let tail = if head.is_empty() { tail.trim_start_matches('\n').to_owned() } else { tail };
            return format!("{head}{tail}");
        }
        Edit::Disable(_, is_disabled) => with(&own, "disabled", is_disabled.then(|| "true".to_owned())),
        Edit::Password { password, scram, .. } => {
            let own = with(&own, "password", Some(quoted(password)));
            with(&own, "scram", scram.as_deref().map(quoted))
        }
        Edit::Add(_) => own,
    };
    format!("{head}{own}{tail}")
}

/// An entry with a key set or taken away.
fn with(entry: &str, key: &str, value: Option<String>) -> String {
    let is_key =
        |line: &str| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    let value = value.map(|value| format!("{key} = {value}\n"));
    let mut out = String::new();
    let mut value = value;
    for line in entry.split_inclusive('\n') {
        if is_key(line) {
            out.push_str(&value.take().unwrap_or_default());
        } else {
            out.push_str(line);
        }
    }
    if let Some(value) = value {
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(&value);
    }
    out
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HASH: &str = "$argon2id$v=19$m=256,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";
    const OTHER: &str = "$argon2id$v=19$m=64,t=2,p=2$c29tZXNhbHQ$bQk8UB/VmZZF4Oo79iDXuL5/0ttZwg2f/5U52iv1cDc";

    fn written() -> String {
        format!(
            "# Ours.\n\n# Ann sends receipts.\n[[user]]\nname = \"ann\" # first\ntenant = \"t\"\npassword = '{HASH}'\n\
             senders = [\n  \"*@a.test\", # all\n]\n\n# Bob.\n[[user]]\nname = \"bob\"\ntenant = \"t\"\npassword = \"{HASH}\"\n"
        )
    }

    fn done(text: &str, edit: &Edit) -> String {
        edited(text, edit, Path::new("users.toml")).unwrap()
    }

    fn new(name: &str) -> NewUser {
        let (name, tenant) = (name.to_owned(), "t".to_owned());
        NewUser {
            name,
            tenant,
            password: Some(HASH.to_owned()),
            senders: vec!["*@a.test".into()],
            ..NewUser::default()
        }
    }

    #[test]
    fn a_user_is_added_at_the_end() {
        let after = done(&written(), &Edit::Add(new("c\"c")));

        let own =
            format!("\n[[user]]\nname = 'c\"c'\ntenant = \"t\"\npassword = \"{HASH}\"\nsenders = [\"*@a.test\"]\n");
        assert_eq!(after, written() + &own);
        assert!(done("", &Edit::Add(new("ann"))).starts_with("[[user]]\nname = \"ann\"\n"));
    }

    #[test]
    fn only_the_lines_of_the_change_are_touched() {
        let text = written();
        let disabled = done(&text, &Edit::Disable("ann".into(), true));
        let password = Edit::Password { name: "bob".into(), password: OTHER.into(), scram: None };

        assert_eq!(disabled, text.replace("]\n\n# Bob", "]\ndisabled = true\n\n# Bob"));
        assert_eq!(done(&disabled, &Edit::Disable("ann".into(), false)), text);
        assert_eq!(done(&text, &password), text.replace(&format!("\"{HASH}\""), &format!("\"{OTHER}\"")));
    }

    #[test]
    fn a_user_is_removed_with_their_lines_and_no_other() {
        let text = written();

        let after = done(&text, &Edit::Remove("ann".into()));

        assert!(after.starts_with("# Ours.\n\n# Ann sends receipts.\n\n# Bob.\n[[user]]\nname = \"bob\""), "{after}");
        assert_eq!(done(&after, &Edit::Remove("bob".into())), "# Ours.\n\n# Ann sends receipts.\n\n# Bob.\n");
    }

    #[test]
    fn what_cannot_be_done_is_told_and_nothing_is_written() {
        let inline = format!("user = [{{ name = \"ann\", tenant = \"t\", password = \"{HASH}\" }}]\n");
        let hidden = written().replace("tenant = \"t\"\npassword = '", "tenant = \"t\"\n\"password\" = '");
        let password = Edit::Password { name: "ann".into(), password: OTHER.into(), scram: None };
        let said = |text: &str, edit: &Edit| edited(text, edit, Path::new("users.toml")).unwrap_err().to_string();

        assert!(said(&written(), &Edit::Remove("c".into())).contains("no user \"c\""));
        assert!(said(&written(), &Edit::Add(new("ann"))).contains("\"ann\" already"));
        assert!(said(&written(), &Edit::Add(new("a b"))).contains("name: allowed"));
        assert!(said(&inline, &Edit::Remove("ann".into())).contains("by hand"));
        assert!(!said(&hidden, &password).is_empty());
    }

    #[test]
    fn the_file_is_replaced_with_its_owner_kept_and_others_shut_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.toml");

        edit(&path, &Edit::Add(new("ann")), None).unwrap();
        edit(&path, &Edit::Add(new("bob")), None).unwrap();

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, rewrite::MODE);
        assert_eq!(Table::read(&path).unwrap().entries(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(edit(&path, &Edit::Remove("ann".into()), None).unwrap_err().to_string().contains("mode 0666"));
    }
}
