//! Little room on the disk: refusals come before the reserve is gone, delivery goes on, accepting resumes, and a start on
//! a full disk comes up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

#[path = "common/spool.rs"]
mod common;
#[path = "common/skip.rs"]
mod skip;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{content, delivered, envelope, message, octets, recover, settings, try_open};
use hikyaku::log::disk::Disk;
use hikyaku::log::simulated::{Operation, Simulated};
use hikyaku::log::storage::{Entry, Space, Storage, StorageFile};
use hikyaku::message::MessageId;
use hikyaku::spool::{AcceptError, NewMessage, OpenError, Recovery, Settings, Spool};

fn small() -> Settings {
    Settings { segment_size: 256 << 10, ..settings() }
}

/// Opens a spool. A child that another test is about to start holds a copy of the lock for a moment.
fn open(storage: Arc<dyn Storage>, settings: Settings) -> (Spool, Recovery) {
    let began = Instant::now();
    loop {
        match try_open(storage.clone(), settings.clone()) {
            Err(OpenError::Claim(error)) if error.kind() == ErrorKind::ResourceBusy => {
                assert!(began.elapsed() < Duration::from_secs(20), "the spool stays locked");
                std::thread::yield_now();
            }
            opened => return opened.unwrap(),
        }
    }
}

fn start(storage: Arc<dyn Storage>, settings: Settings) -> Spool {
    let (spool, recovery) = open(storage, settings);
    recover(recovery);
    spool
}

async fn keep_house(spool: &Spool) {
    let spool = spool.clone();
    tokio::task::spawn_blocking(move || spool.keep_house()).await.unwrap();
}

/// Accepts messages until one is refused; those that were accepted.
async fn fill(spool: &Spool, length: usize) -> Vec<MessageId> {
    let mut accepted = Vec::new();
    loop {
        let id = spool.next_id();
        match spool.accept(message(id, 1, length)).await {
            Ok(()) => accepted.push(id),
            Err(error) => {
                assert_eq!(error, AcceptError::Full);
                return accepted;
            }
        }
        assert!(accepted.len() < 2_000, "never full");
    }
}

/// Waits until a message is accepted again.
async fn resume(spool: &Spool) -> MessageId {
    let began = Instant::now();
    loop {
        let id = spool.next_id();
        if spool.accept(message(id, 1, 1000)).await.is_ok() {
            return id;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "accepting did not resume");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A real directory on a disk that says that it has this much room; with `u64::MAX`, that it cannot say.
#[derive(Debug)]
struct Tight {
    disk: Disk,
    free: AtomicU64,
}

impl Tight {
    fn new(root: &tempfile::TempDir, free: u64) -> Arc<Self> {
        Arc::new(Self { disk: Disk::new(root.path().join("spool")), free: AtomicU64::new(free) })
    }
}

impl Storage for Tight {
    fn claim(&self, directories: &[&str]) -> Result<()> {
        self.disk.claim(directories)
    }
    fn create(&self, name: &str) -> Result<Arc<dyn StorageFile>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> Result<Arc<dyn StorageFile>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(name)
    }
    fn list(&self, directory: &str) -> Result<Vec<Entry>> {
        self.disk.list(directory)
    }
    fn sync_dir(&self, directory: &str) -> Result<()> {
        self.disk.sync_dir(directory)
    }
    fn space(&self) -> Result<Space> {
        match self.free.load(Ordering::Relaxed) {
            u64::MAX => Err(ErrorKind::Other.into()),
            free => Ok(Space { total: 1 << 20, free }),
        }
    }
}

#[tokio::test]
async fn the_reserve_is_not_used_between_two_looks_at_the_disk() {
    let root = tempfile::tempdir().unwrap();
    let reserve = 1 << 20;
    let storage = Tight::new(&root, 1 << 30);
    let spool = start(storage.clone(), Settings { reserve, ..small() });
    storage.free.store(reserve + 2_000_000, Ordering::Relaxed);
    keep_house(&spool).await;
    // From now on the keeper learns nothing; a pass of it that is under way ends.
    storage.free.store(u64::MAX, Ordering::Relaxed);
    keep_house(&spool).await;
    let mut upload = spool.spill().unwrap();

    upload.write(&[7; 900_000]).unwrap();
    spool.accept(message(spool.next_id(), 1, 200_000)).await.unwrap();
    spool.accept(message(spool.next_id(), 1, 600_000)).await.unwrap();

    assert_eq!(upload.write(&[7; 900_000]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(spool.accept(message(spool.next_id(), 1, 400_000)).await, Err(AcceptError::Full));
    storage.free.store(reserve - 1, Ordering::Relaxed);
    keep_house(&spool).await;
    assert_eq!(upload.write(&[7; 1]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(spool.spill().unwrap_err().kind(), ErrorKind::StorageFull);
    spool.close().await;
}

#[tokio::test]
async fn what_an_upload_that_was_given_up_has_written_is_removed_soon() {
    let root = tempfile::tempdir().unwrap();
    let storage = Tight::new(&root, 1 << 30);
    let spool = start(storage.clone(), settings());
    let (mut kept, mut lost) = (spool.spill().unwrap(), spool.spill().unwrap());
    kept.write(&[1; 500_000]).unwrap();
    lost.write(&[2; 500_000]).unwrap();
    let id = spool.next_id();
    let content = kept.content(Bytes::new(), 0).unwrap();
    spool.accept(NewMessage { id, envelope: envelope(1), content, ended_at: Instant::now() }).await.unwrap();
    drop(lost);

    keep_house(&spool).await;

    assert_eq!(storage.list("spill").unwrap().len(), 1);
    assert_eq!(octets(&spool.load(id).unwrap().content), vec![1; 500_000]);
    spool.close().await;
}

#[tokio::test]
async fn a_spill_file_that_could_not_be_removed_is_tried_again() {
    let storage = Simulated::new(1);
    let spool = start(Arc::new(storage.clone()), small());
    let failed = AtomicBool::new(false);
    storage.inject(move |operation, name| {
        let fails =
            operation == Operation::Remove && name.starts_with("spill/") && !failed.swap(true, Ordering::SeqCst);
        fails.then_some(ErrorKind::Other)
    });
    for _ in 0..3 {
        let id = spool.next_id();
        spool.accept(message(id, 1, 300_000)).await.unwrap();
        spool.record(id, &[delivered(0)]);
    }

    keep_house(&spool).await;
    keep_house(&spool).await;

    assert_eq!(storage.list("spill").unwrap(), []);
    spool.close().await;
}

#[tokio::test]
async fn a_start_without_room_for_a_segment_comes_up_removes_orphans_and_accepts_when_there_is_room() {
    let storage = Simulated::new(1);
    let spool = start(Arc::new(storage.clone()), small());
    let (held, waits) = (spool.next_id(), spool.next_id());
    spool.accept(message(held, 1, 90_000)).await.unwrap();
    spool.accept(message(waits, 1, 90_000)).await.unwrap();
    spool.close().await;
    drop(spool);
    storage.create("spill/0000000000000001").unwrap();
    let full = Arc::new(AtomicBool::new(true));
    let is_full = full.clone();
    storage.inject(move |operation, _| {
        let allocates = matches!(operation, Operation::Create | Operation::Fill);
        (allocates && is_full.load(Ordering::SeqCst)).then_some(ErrorKind::StorageFull)
    });

    let (spool, recovery) = try_open(Arc::new(storage.clone()), small()).unwrap();
    let (found, _) = recover(recovery);
    let refused = spool.accept(message(spool.next_id(), 1, 100)).await;
    spool.record(held, &[delivered(0)]);
    let orphans = storage.list("spill").unwrap();
    full.store(false, Ordering::SeqCst);
    let resumed = resume(&spool).await;
    spool.close().await;
    drop(spool);

    assert_eq!((found.len(), refused, orphans), (2, Err(AcceptError::Full), Vec::new()));
    let (_spool, recovery) = try_open(Arc::new(storage.after_kill()), small()).unwrap();
    let (found, report) = recover(recovery);
    let raised: BTreeSet<_> = found.iter().map(|found| found.id).collect();
    assert_eq!((raised, report.damaged, report.tail), (BTreeSet::from([waits, resumed]), 0, 0));
}

#[tokio::test]
async fn a_spool_that_found_no_room_all_its_life_closes_and_starts_again() {
    let storage = Simulated::new(1);
    storage.inject(|operation, _| (operation == Operation::Fill).then_some(ErrorKind::StorageFull));
    let spool = start(Arc::new(storage.clone()), small());
    assert_eq!(spool.accept(message(spool.next_id(), 1, 100)).await, Err(AcceptError::Full));
    spool.close().await;
    drop(spool);

    storage.heal();
    let spool = start(Arc::new(storage.clone()), small());

    spool.accept(message(spool.next_id(), 1, 100)).await.unwrap();
    assert!(storage.list("segments").unwrap().iter().all(|entry| !entry.name.ends_with(".idx")));
    spool.close().await;
}

#[tokio::test]
async fn without_room_for_indexes_and_checkpoints_nothing_is_refused_or_lost() {
    let storage = Simulated::new(1);
    storage.inject(|operation, name| {
        let is_aid = name.ends_with(".idx.new") || name.ends_with("checkpoint.new");
        (operation == Operation::Create && is_aid).then_some(ErrorKind::StorageFull)
    });
    let spool = start(Arc::new(storage.clone()), small());
    let mut accepted = BTreeSet::new();
    for _ in 0..20 {
        let id = spool.next_id();
        spool.accept(message(id, 1, 50_000)).await.unwrap();
        accepted.insert(id);
    }
    keep_house(&spool).await;
    spool.close().await;
    drop(spool);

    let (_spool, recovery) = try_open(Arc::new(storage.after_kill()), small()).unwrap();
    let (found, report) = recover(recovery);

    assert_eq!(found.iter().map(|found| found.id).collect::<BTreeSet<_>>(), accepted);
    assert_eq!((report.indexed, report.covered, report.damaged), (0, 0, 0));
}

/// Runs a command; false if it fails.
fn run(program: &str, arguments: &[&str]) -> bool {
    std::process::Command::new(program)
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Unmounts when the test ends.
struct Mount(tempfile::TempDir);

impl Drop for Mount {
    fn drop(&mut self) {
        run("umount", &[self.0.path().to_str().unwrap()]);
    }
}

/// A small disk; `None` where none can be had.
fn mount_tmpfs(size: &str) -> Option<Mount> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_str().unwrap().to_owned();
    run("mount", &["-t", "tmpfs", "-o", &format!("size={size},mode=0755"), "none", &path]).then(|| Mount(directory))
}

/// A file system of this size, or the end of the test.
macro_rules! tmpfs {
    ($case:expr, $size:expr) => {
        match mount_tmpfs($size) {
            Some(mount) => mount,
            None => return skip::skip($case, "cannot mount a tmpfs: not root, or no mount here"),
        }
    };
}

#[tokio::test]
async fn a_really_full_disk_refuses_and_resumes() {
    let mount = tmpfs!("a_really_full_disk_refuses_and_resumes", "8m");
    let settings = Settings { segment_size: 1 << 20, ..settings() };
    let disk = || Arc::new(Disk::new(mount.0.path().join("spool")));
    let spool = start(disk(), settings.clone());
    let accepted = fill(&spool, 50_000).await;
    let keep = accepted[0];
    accepted[1..].iter().for_each(|id| spool.record(*id, &[delivered(0)]));
    resume(&spool).await;
    spool.close().await;
    drop(spool);

    let (spool, recovery) = open(disk(), settings);
    let (found, report) = recover(recovery);
    assert_eq!((found.len(), report.damaged), (2, 0));
    assert_eq!(octets(&spool.load(keep).unwrap().content), content(keep, 50_000));
    assert!(disk().list("segments").is_ok());
}

#[tokio::test]
async fn a_disk_without_inodes_refuses_and_resumes() {
    let mount = tmpfs!("a_disk_without_inodes_refuses_and_resumes", "64m,nr_inodes=24");
    let disk = || Arc::new(Disk::new(mount.0.path().join("spool")));
    let spool = start(disk(), small());
    let accepted = fill(&spool, 50_000).await;
    accepted[1..].iter().for_each(|id| spool.record(*id, &[delivered(0)]));
    let resumed = resume(&spool).await;
    spool.close().await;
    drop(spool);

    let (_spool, recovery) = open(disk(), small());
    let (found, report) = recover(recovery);
    assert_eq!(found.iter().map(|found| found.id).collect::<BTreeSet<_>>(), BTreeSet::from([accepted[0], resumed]));
    assert_eq!(report.damaged, 0);
}

#[tokio::test]
async fn uploads_that_fill_the_disk_are_refused_before_it_is_full_and_removed() {
    let mount = tmpfs!("uploads_that_fill_the_disk_are_refused_before_it_is_full_and_removed", "8m");
    let disk = Arc::new(Disk::new(mount.0.path().join("spool")));
    let spool = start(disk.clone(), Settings { segment_size: 1 << 20, ..settings() });
    let mut uploads: Vec<_> = (0..4).map(|_| spool.spill().unwrap()).collect();
    let error = loop {
        if let Some(error) = uploads.iter_mut().find_map(|upload| upload.write(&[7; 50_000]).err()) {
            break error;
        }
    };
    let left = disk.space().unwrap().free;
    drop(uploads);

    let resumed = resume(&spool).await;
    keep_house(&spool).await;

    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert!(left > 0, "nothing is left for outcomes");
    assert!(spool.load(resumed).is_ok());
    assert_eq!(disk.list("spill").unwrap(), []);
    spool.close().await;
}

#[tokio::test]
async fn orphans_that_fill_the_disk_do_not_keep_the_spool_from_opening() {
    let mount = tmpfs!("orphans_that_fill_the_disk_do_not_keep_the_spool_from_opening", "4m");
    let disk = || Arc::new(Disk::new(mount.0.path().join("spool")));
    let settings = Settings { segment_size: 1 << 20, ..settings() };
    start(disk(), settings.clone()).close().await;
    let orphan = mount.0.path().join("spool/spill/0000000000000001");
    let mut octets = std::fs::File::create(orphan).unwrap();
    while std::io::Write::write_all(&mut octets, &[7; 4096]).is_ok() {}
    drop(octets);

    let spool = start(disk(), settings);

    resume(&spool).await;
    spool.close().await;
}

#[tokio::test]
async fn on_a_disk_too_small_for_a_segment_records_go_to_a_smaller_one() {
    let mount = tmpfs!("on_a_disk_too_small_for_a_segment_records_go_to_a_smaller_one", "8m");
    let disk = || Arc::new(Disk::new(mount.0.path().join("spool")));
    let large = Settings { segment_size: 64 << 20, ..settings() };
    let spool = start(disk(), small());
    let id = spool.next_id();
    spool.accept(message(id, 1, 90_000)).await.unwrap();
    spool.close().await;
    drop(spool);

    let spool = start(disk(), large.clone());
    spool.attempt(id, &[0], "127.0.0.1:25".parse().unwrap()).await.unwrap();
    spool.record(id, &[delivered(0)]);
    let next = spool.next_id();
    spool.accept(message(next, 1, 1000)).await.unwrap();
    spool.close().await;
    drop(spool);

    let (_spool, recovery) = open(disk(), large);
    assert_eq!(recover(recovery).0.iter().map(|found| found.id).collect::<Vec<_>>(), [next]);
}
