//! A [`Storage`] in memory that can lose power: for tests of everything above it.
//!
//! It keeps, beside what a reader sees, what would survive: sectors of 512 octets that were synced, names whose directory
//! was synced. [`Simulated::crash`] gives the storage that a machine would find afterwards: of each sector that was not
//! synced any version since the last sync, chosen by seed; of the changes of names in a directory any prefix. A failing
//! sync loses its dirty sectors as a kernel does: readers still see them, the next sync succeeds without writing them.
//!
//! [`Simulated::die_at`] makes every call from the n-th on fail without effect, which is what a kill looks like from
//! below; [`Simulated::inject`] makes chosen calls fail.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::storage::{Entry, Space, Storage, StorageFile};

const SECTOR: usize = 512;

/// An operation, for fault plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creating a file.
    Create,
    /// Opening a file.
    Open,
    /// Writing.
    Write,
    /// Filling with zeros.
    Fill,
    /// Reading.
    Read,
    /// Syncing a file.
    SyncData,
    /// Syncing a directory.
    SyncDirectory,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Listing.
    List,
}

type Plan = Box<dyn FnMut(Operation, &str) -> Option<io::ErrorKind> + Send>;

/// A small generator (xorshift64*): the same seed gives the same crash.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.number() >> 11) % bound
    }
}

type Sector = [u8; SECTOR];

/// A file's octets.
#[derive(Clone, Debug, Default)]
struct Inode {
    /// What readers see.
    seen: Vec<u8>,
    /// What a crash leaves.
    durable: Vec<u8>,
    /// Versions of sectors written since the last sync.
    dirty: BTreeMap<usize, Vec<Sector>>,
}

impl Inode {
    fn write(&mut self, octets: &[u8], offset: usize) {
        let end = offset + octets.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        if let Some(place) = self.seen.get_mut(offset..end) {
            place.copy_from_slice(octets);
        }
        for sector in offset / SECTOR..end.div_ceil(SECTOR) {
            let version = self.sector(sector);
            self.dirty.entry(sector).or_default().push(version);
        }
    }

    fn sector(&self, sector: usize) -> Sector {
        let mut version = [0; SECTOR];
        let from = self.seen.get(sector * SECTOR..).unwrap_or_default();
        version.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        version
    }

    /// Puts a version of a sector on the medium.
    fn settle(&mut self, sector: usize, version: &Sector) {
        let length = self.seen.len();
        if self.durable.len() < length {
            self.durable.resize(length, 0);
        }
        if let Some(place) = self.durable.get_mut(sector * SECTOR..) {
            place.iter_mut().zip(version).for_each(|(to, from)| *to = *from);
        }
    }

    fn sync(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if let Some(last) = versions.last() {
                self.settle(sector, last);
            }
        }
    }

    /// Any version of each dirty sector reaches the medium, the oldest and the newest ones more often than not.
    fn tear(&mut self, random: &mut Random) {
        let bias = random.below(5);
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            let count = versions.len() as u64;
            let choice = match bias {
                0 => 0,
                1 => count,
                _ => random.below(count + 1),
            };
            let index = usize::try_from(choice).unwrap_or_default().checked_sub(1);
            if let Some(version) = index.and_then(|index| versions.get(index)) {
                self.settle(sector, version);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(String, u64),
    Drop(String),
}

#[derive(Clone, Debug, Default)]
struct Names {
    seen: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

impl Names {
    fn change(&mut self, change: Change) {
        apply(&mut self.seen, &change);
        self.changes.push(change);
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Put(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Change::Drop(name) => {
            names.remove(name);
        }
    }
}

#[derive(Debug, Default)]
struct Disk {
    inodes: BTreeMap<u64, Inode>,
    directories: BTreeMap<String, Names>,
    last: u64,
}

impl Disk {
    fn find(&self, name: &str) -> io::Result<u64> {
        let (directory, name) = split(name);
        let names = self.directories.get(directory).ok_or(io::ErrorKind::NotFound)?;
        names.seen.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk {
    fn name_of(&self, number: u64) -> Option<String> {
        self.directories.iter().find_map(|(directory, names)| {
            let (name, _) = names.seen.iter().find(|(_, inode)| **inode == number)?;
            Some(format!("{directory}/{name}"))
        })
    }
}

fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

struct Shared {
    disk: Mutex<Disk>,
    plan: Mutex<Option<Plan>>,
    calls: AtomicU64,
    dies_at: AtomicU64,
    free: AtomicU64,
    random: Mutex<Random>,
}

/// A storage in memory.
#[derive(Clone)]
pub struct Simulated {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulated").finish_non_exhaustive()
    }
}

impl Simulated {
    /// An empty storage of 1 TiB, all of it free.
    pub fn new(seed: u64) -> Self {
        Self::with(Disk::default(), seed)
    }

    fn with(disk: Disk, seed: u64) -> Self {
        let shared = Shared {
            disk: Mutex::new(disk),
            plan: Mutex::new(None),
            calls: AtomicU64::new(0),
            dies_at: AtomicU64::new(u64::MAX),
            free: AtomicU64::new(1 << 40),
            random: Mutex::new(Random::new(seed)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The calls so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Every call from this one on fails without effect.
    pub fn die_at(&self, call: u64) {
        self.shared.dies_at.store(call, Ordering::SeqCst);
    }

    /// Whether a call failed because of [`Simulated::die_at`].
    pub fn is_dead(&self) -> bool {
        self.calls() > self.shared.dies_at.load(Ordering::SeqCst)
    }

    /// Asks `plan` before every call whether it shall fail.
    pub fn inject(&self, plan: impl FnMut(Operation, &str) -> Option<io::ErrorKind> + Send + 'static) {
        *self.shared.plan.lock() = Some(Box::new(plan));
    }

    /// No more injected failures.
    pub fn heal(&self) {
        *self.shared.plan.lock() = None;
    }

    /// Sets the free space that is reported.
    pub fn set_free(&self, octets: u64) {
        self.shared.free.store(octets, Ordering::Relaxed);
    }

    /// What is found after the power was lost now.
    pub fn crash(&self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let old = self.shared.disk.lock();
        let mut disk = Disk { last: old.last, ..Disk::default() };
        for (path, names) in &old.directories {
            let mut durable = names.durable.clone();
            let kept = random.below(names.changes.len() as u64 + 1);
            names.changes.iter().take(usize::try_from(kept).unwrap_or_default()).for_each(|it| apply(&mut durable, it));
            disk.directories.insert(path.clone(), Names { seen: durable.clone(), durable, changes: Vec::new() });
        }
        for (&number, inode) in &old.inodes {
            let mut inode = inode.clone();
            inode.tear(&mut random);
            inode.seen = inode.durable.clone();
            disk.inodes.insert(number, inode);
        }
        Self::with(disk, seed)
    }

    /// The storage as it is now, everything in it durable: what a kill of the process leaves.
    pub fn after_kill(&self) -> Self {
        let old = self.shared.disk.lock();
        let mut disk = Disk { last: old.last, ..Disk::default() };
        for (path, names) in &old.directories {
            let seen = names.seen.clone();
            disk.directories.insert(path.clone(), Names { durable: seen.clone(), seen, changes: Vec::new() });
        }
        for (&number, inode) in &old.inodes {
            let (seen, durable) = (inode.seen.clone(), inode.seen.clone());
            disk.inodes.insert(number, Inode { seen, durable, dirty: BTreeMap::new() });
        }
        Self::with(disk, 1)
    }

    /// Changes the octets of a file, durably, behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut disk = self.shared.disk.lock();
        let number = disk.find(name)?;
        if let Some(inode) = disk.inodes.get_mut(&number) {
            change(&mut inode.seen);
            inode.durable = inode.seen.clone();
            inode.dirty.clear();
        }
        Ok(())
    }
}

impl Shared {
    fn enter(&self, operation: Operation, name: &str) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        if call >= self.dies_at.load(Ordering::SeqCst) {
            return Err(io::Error::other("the machine is off"));
        }
        match self.plan.lock().as_mut().and_then(|plan| plan(operation, name)) {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    fn file(self: &Arc<Self>, number: u64) -> Arc<dyn StorageFile> {
        Arc::new(SimulatedFile { shared: self.clone(), number })
    }
}

impl Storage for Simulated {
    fn claim(&self, directories: &[&str]) -> io::Result<()> {
        let mut disk = self.shared.disk.lock();
        for directory in directories {
            disk.directories.entry((*directory).to_owned()).or_default();
        }
        Ok(())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.shared.enter(Operation::Create, name)?;
        let mut disk = self.shared.disk.lock();
        if disk.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        disk.last += 1;
        let number = disk.last;
        disk.inodes.insert(number, Inode::default());
        let (directory, file) = split(name);
        let names = disk.directories.get_mut(directory).ok_or(io::ErrorKind::NotFound)?;
        names.change(Change::Put(file.to_owned(), number));
        Ok(self.shared.file(number))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.shared.enter(Operation::Open, name)?;
        let number = self.shared.disk.lock().find(name)?;
        Ok(self.shared.file(number))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.shared.enter(Operation::Rename, from)?;
        let mut disk = self.shared.disk.lock();
        let number = disk.find(from)?;
        let ((directory, from), (_, to)) = (split(from), split(to));
        let names = disk.directories.get_mut(directory).ok_or(io::ErrorKind::NotFound)?;
        names.change(Change::Put(to.to_owned(), number));
        names.change(Change::Drop(from.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.shared.enter(Operation::Remove, name)?;
        let mut disk = self.shared.disk.lock();
        disk.find(name)?;
        let (directory, file) = split(name);
        let names = disk.directories.get_mut(directory).ok_or(io::ErrorKind::NotFound)?;
        names.change(Change::Drop(file.to_owned()));
        Ok(())
    }

    fn list(&self, directory: &str) -> io::Result<Vec<Entry>> {
        self.shared.enter(Operation::List, directory)?;
        let disk = self.shared.disk.lock();
        let names = disk.directories.get(directory).ok_or(io::ErrorKind::NotFound)?;
        let entry = |(name, number): (&String, &u64)| {
            let size = disk.inodes.get(number).map_or(0, |inode| inode.seen.len() as u64);
            Entry { name: name.clone(), size }
        };
        Ok(names.seen.iter().map(entry).collect())
    }

    fn sync_dir(&self, directory: &str) -> io::Result<()> {
        self.shared.enter(Operation::SyncDirectory, directory)?;
        let mut disk = self.shared.disk.lock();
        let names = disk.directories.get_mut(directory).ok_or(io::ErrorKind::NotFound)?;
        names.durable = names.seen.clone();
        names.changes.clear();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { total: 1 << 40, free: self.shared.free.load(Ordering::Relaxed) })
    }
}

struct SimulatedFile {
    shared: Arc<Shared>,
    number: u64,
}

impl std::fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedFile").field("number", &self.number).finish_non_exhaustive()
    }
}

impl SimulatedFile {
    /// A fault plan sees the name that the file has now.
    fn enter(&self, operation: Operation) -> io::Result<()> {
        let name = self.shared.plan.lock().is_some().then(|| self.shared.disk.lock().name_of(self.number)).flatten();
        self.shared.enter(operation, name.as_deref().unwrap_or_default())
    }

    fn with<T>(&self, body: impl FnOnce(&mut Inode) -> T) -> io::Result<T> {
        let mut disk = self.shared.disk.lock();
        Ok(body(disk.inodes.get_mut(&self.number).ok_or(io::ErrorKind::NotFound)?))
    }
}

impl StorageFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.enter(Operation::Read)?;
        self.with(|inode| {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(inode.seen.len());
            let octets = inode.seen.get(from..).unwrap_or_default();
            let count = octets.len().min(buffer.len());
            buffer.iter_mut().zip(octets).for_each(|(to, from)| *to = *from);
            count
        })
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.enter(Operation::Write)?;
        let octets: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.with(|inode| inode.write(&octets, usize::try_from(offset).unwrap_or(usize::MAX)))
    }

    fn fill_zero(&self, length: u64) -> io::Result<()> {
        self.enter(Operation::Fill)?;
        // Zeros of a file that was never larger need no versions: a sector that is lost reads as zeros too.
        self.with(|inode| inode.seen.resize(usize::try_from(length).unwrap_or_default(), 0))
    }

    fn sync_data(&self) -> io::Result<()> {
        let entered = self.enter(Operation::SyncData);
        let is_dead = self.shared.calls.load(Ordering::SeqCst) > self.shared.dies_at.load(Ordering::SeqCst);
        self.with(|inode| match &entered {
            Ok(()) => {
                inode.sync();
                let length = inode.seen.len();
                inode.durable.resize(length, 0);
            }
            Err(_) if is_dead => {}
            Err(_) => inode.tear(&mut self.shared.random.lock()),
        })?;
        entered
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|inode| inode.seen.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(storage: &Simulated, name: &str) -> Option<Vec<u8>> {
        let file = storage.open(name).ok()?;
        let mut buffer = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_at(&mut buffer, 0).unwrap();
        Some(buffer)
    }

    fn storage() -> Simulated {
        let storage = Simulated::new(1);
        storage.claim(&["d"]).unwrap();
        storage
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_some_of_the_rest() {
        let storage = storage();
        let file = storage.create("d/a").unwrap();
        file.write_at(&[IoSlice::new(&[1; 2048])], 0).unwrap();
        file.sync_data().unwrap();
        storage.sync_dir("d").unwrap();
        file.write_at(&[IoSlice::new(&[2; 1024])], 1024).unwrap();

        let outcomes: std::collections::BTreeSet<_> =
            (0..64).map(|seed| octets(&storage.crash(seed), "d/a").unwrap()).collect();

        assert_eq!(outcomes.len(), 4);
        assert!(outcomes.iter().all(|octets| octets[..1024] == [1; 1024]));
    }

    #[test]
    fn a_name_survives_only_when_its_directory_was_synced() {
        let storage = storage();
        storage.create("d/a").unwrap().sync_data().unwrap();

        assert!((0..32).any(|seed| octets(&storage.crash(seed), "d/a").is_none()));
        storage.sync_dir("d").unwrap();
        assert!((0..32).all(|seed| octets(&storage.crash(seed), "d/a").is_some()));
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let is_lost = |seed| {
            let storage = Simulated::new(seed);
            storage.claim(&["d"]).unwrap();
            let file = storage.create("d/a").unwrap();
            storage.sync_dir("d").unwrap();
            file.write_at(&[IoSlice::new(&[1; 512 * 64])], 0).unwrap();
            storage.inject(|operation, _| (operation == Operation::SyncData).then_some(io::ErrorKind::Other));
            file.sync_data().unwrap_err();
            storage.heal();
            file.sync_data().unwrap();
            assert_eq!(octets(&storage, "d/a").unwrap(), [1; 512 * 64]);
            octets(&storage.crash(seed), "d/a").unwrap().contains(&0)
        };

        assert!((0..16).any(is_lost));
    }
}
