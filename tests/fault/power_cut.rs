//! F3: the power is cut. The spool is on an ext4 of its own that writes back late; the daemon is stopped where it is, and the
//! next one starts on a copy of what the disk held at that moment.
//!
//! With `attempts = "sync"` recovery names all that may come twice; with the default, `"write"`, it cannot name attempts
//! whose record had not reached the disk, and their number alone is bounded.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::letter::scrambled;
use super::row::{Row, in_parallel, seed, sized};
use super::world::World;
use super::world::client::Numbers;

/// Octets of the disk: some ten segments, and the journal of the file system.
const SIZE: &str = "96M";
/// Outcomes are synced within 50 ms; this machine may be late four times over.
const UNSYNCED: Duration = Duration::from_millis(200);

/// A disk in a file, mounted at the spool's place until it is dropped.
#[derive(Debug)]
struct Disk {
    image: PathBuf,
    place: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

impl Disk {
    /// An empty one.
    fn make(image: &Path, place: &Path) -> Result<Self, String> {
        let text = image.display().to_string();
        run("truncate", &["-s", SIZE, &text])?;
        run("mkfs.ext4", &["-q", "-F", &text])?;
        Self::mount(image, place)
    }

    /// Nothing is written back for ten minutes unless somebody asks for it.
    fn mount(image: &Path, place: &Path) -> Result<Self, String> {
        std::fs::create_dir_all(place).map_err(|error| error.to_string())?;
        run("mount", &["-o", "loop,commit=600", &image.display().to_string(), &place.display().to_string()])?;
        Ok(Self { image: image.to_owned(), place: place.to_owned() })
    }

    /// What it holds now, without what the file system above has not written yet.
    fn copy(&self, to: &Path) {
        run("cp", &["--sparse=always", &self.image.display().to_string(), &to.display().to_string()]).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run("umount", &[&self.place.display().to_string()]) {
            eprintln!("{error}");
            let _ = run("umount", &["-l", &self.place.display().to_string()]);
        }
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Why no disk can be made here.
fn obstacle() -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    Disk::make(&folder.path().join("image"), &folder.path().join("place")).err()
}

/// A chain of daemons on one disk, each ended by a power cut.
fn cuts(attempts: &str, rounds: usize) -> super::world::Ending {
    let mut world = World::with(&format!("power cut, attempts {attempts}"), Numbers::from(0), |options| {
        // A folder on the disk: its top has a lost+found.
        let spool = options.text("spool.path");
        options.set("spool.path", format!("{spool}/spool")).set("spool.attempts", attempts);
    });
    world.spares_unannounced = attempts != "sync";
    let image = |round: usize| world.folder().join(format!("disk{round}"));
    let mut disk = Disk::make(&image(0), &world.spool()).unwrap();
    for round in 0..rounds {
        let (daemon, address) = world.start();
        let clients = world.endless_load(address);
        thread::sleep(Duration::from_millis(100 + scrambled(seed() ^ (0xf3 + round as u64)) % 400));
        daemon.freeze();
        let next = world.folder().join(format!("disk{}", round + 1));
        disk.copy(&next);
        world.cut(daemon, UNSYNCED);
        clients.join();
        drop(disk);
        disk = Disk::mount(&next, &world.spool()).unwrap();
    }
    // The disk goes after the check.
    world.finish_and(|| drop(disk))
}

#[test]
fn after_a_power_cut_all_that_was_acknowledged_is_there() {
    let mut named = Row::of("F3 power cut, attempts synced");
    if let Some(obstacle) = obstacle() {
        return named.skip("after_a_power_cut_all_that_was_acknowledged_is_there", &obstacle);
    }
    let mut bounded = Row::of("F3 power cut, attempts written");
    let rounds = sized(10, 200) / 2;

    let (with_sync, with_write) = thread::scope(|scope| {
        let other = scope.spawn(|| in_parallel(1, 1, |_| cuts("write", rounds)));
        (in_parallel(1, 1, |_| cuts("sync", rounds)), other.join().unwrap())
    });

    bounded.note("what was not on the disk is not named, but within the bound");
    bounded.add(rounds, with_write);
    named.add(rounds, with_sync);
    let accepted = named.sum().accepted + bounded.sum().accepted;
    assert!(accepted > rounds as u64 * 10, "hardly any load: {accepted} messages");
}
