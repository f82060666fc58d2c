//! What was learnt about receivers, over a restart: an index that can be thrown away, since all of it can be learnt anew.
//!
//! One sled database, for few keys: the source and the site. A corrupt one is moved aside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Memory for its pages.
const CACHE: u64 = 8 << 20;

/// Where it is kept; the default keeps nothing. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LearntStore {
    path: Option<Arc<Path>>,
    /// Opened when there is something in it, or to be put into it: it takes 20 MB.
    database: Arc<OnceLock<Option<sled::Db>>>,
}

impl LearntStore {
    /// The directory's name within the spool.
    pub const DIRECTORY: &str = "state/learnt";

    /// Opens it in the spool at `spool`. One that cannot be read is moved aside and told; if nothing helps, nothing is kept.
    /// Blocks on the disk.
    pub fn open(spool: &Path) -> Self {
        let path: Arc<Path> = spool.join(Self::DIRECTORY).into();
        let has_some = path.exists();
        let store = Self { path: Some(path), database: Arc::default() };
        if has_some {
            store.database();
        }
        store
    }

    fn database(&self) -> Option<&sled::Db> {
        let path = self.path.as_deref()?;
        self.database.get_or_init(|| open_or_replace(path)).as_ref()
    }

    /// What is kept of a source at a site. One that is damaged is as none.
    pub fn get(&self, source: &str, site: &str) -> Option<Vec<u8>> {
        let found = self.database.get()?.as_ref()?.get(key(source, site));
        found.ok().flatten().map(|octets| octets.to_vec())
    }

    /// Everything that is kept: source, site and octets of each. Blocks.
    pub fn all(&self) -> Vec<(String, String, Vec<u8>)> {
        let named = |(key, octets): (sled::IVec, sled::IVec)| {
            let key = std::str::from_utf8(&key).ok()?;
            let (source, site) = key.split_once('\0')?;
            Some((source.to_owned(), site.to_owned(), octets.to_vec()))
        };
        let items =
            self.database.get().into_iter().flatten().flat_map(|database| database.iter()).filter_map(Result::ok);
        items.filter_map(named).collect()
    }

    /// Keeps `items`: source, site and octets of each. When it returns, they are with the disk. Blocks.
    pub fn put<S: AsRef<str>, O: AsRef<[u8]>>(&self, items: impl Iterator<Item = (S, S, O)>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        let mut is_empty = true;
        for (source, site, octets) in items {
            batch.insert(key(source.as_ref(), site.as_ref()), octets.as_ref());
            is_empty = false;
        }
        if is_empty {
            return Ok(());
        }
        let Some(database) = self.database() else { return Ok(()) };
        database.apply_batch(batch)?;
        database.flush()?;
        Ok(())
    }

    /// Forgets a source at a site.
    pub fn remove(&self, source: &str, site: &str) -> io::Result<()> {
        let Some(database) = self.database.get().and_then(Option::as_ref) else { return Ok(()) };
        database.remove(key(source, site))?;
        Ok(())
    }
}

fn open_or_replace(path: &Path) -> Option<sled::Db> {
    let opened = open(path).or_else(|error| {
        let aside = aside(path);
        tracing::warn!(path = %path.display(), aside = %aside.display(), %error,
            "what was learnt about receivers cannot be read and is moved aside: it is learnt anew");
        let _ = std::fs::remove_dir_all(&aside);
        std::fs::rename(path, &aside)?;
        open(path)
    });
    opened
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "what is learnt about receivers is forgotten at the end");
        })
        .ok()
}

fn open(path: &Path) -> io::Result<sled::Db> {
    // What it does by itself in the background we do when there is something to keep.
    let config = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None);
    config.open().map_err(io::Error::from)
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    name.into()
}

fn key(source: &str, site: &str) -> Vec<u8> {
    // No name has a zero in it.
    [source.as_bytes(), &[0], site.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_a_corrupt_index_is_moved_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = LearntStore::open(folder.path());
        store.put([("a", "mx.test", [1, 2, 3])].into_iter()).unwrap();
        drop(store);

        let again = LearntStore::open(folder.path());
        assert_eq!(again.get("a", "mx.test"), Some(vec![1, 2, 3]));
        assert_eq!(again.get("b", "mx.test"), None);
        assert_eq!(again.all(), [("a".to_owned(), "mx.test".to_owned(), vec![1, 2, 3])]);
        drop(again);

        for name in ["db", "conf"] {
            std::fs::write(folder.path().join(LearntStore::DIRECTORY).join(name), b"nonsense").unwrap();
        }
        let cold = LearntStore::open(folder.path());
        assert_eq!(cold.get("a", "mx.test"), None);
        cold.put([("a", "mx.test", [4])].into_iter()).unwrap();
        assert_eq!(cold.get("a", "mx.test"), Some(vec![4]));
        assert!(folder.path().join("state/learnt.damaged").exists());
    }
}
