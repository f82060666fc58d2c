//! The thread that writes: takes what is in the buffer every few milliseconds and hands it to the kernel.
//!
//! A write that fails is repeated until it succeeds, from where it stopped, so that no line is cut, doubled or out of
//! order; meanwhile events gather in the buffer, and are lost when that is full. Each start begins a new file: what
//! a crash left of a last line is cut off, never continued. When others remove or cut the file that is written, a new one
//! begins with a line that says how many events are gone.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::buffer::{self, Gap, Taken};
use super::event::Kind;
use super::folder::{self, Lock};
use super::id::EventId;
use super::output::{Loss, Output, Rest};
use super::past::Past;

/// How long events gather before they are written: what a kill may lose.
const LINGER: Duration = Duration::from_millis(10);
/// How often the file is looked at when nothing happens: for its age, and whether it is still there.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries of a write that fails: first, and at most.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(1);
/// How long a write that fails is repeated when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(2);
/// A buffer that has grown over this is not kept for the next turn.
const SPARE_MOST: usize = 1 << 20;

/// The thread's state.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    lock: Lock,
    /// None: none could be made yet.
    output: Option<Output>,
    /// What the file must begin with, until that is written: nothing else may be written before.
    head: Option<Head>,
    /// The id of that, and of the file.
    first: EventId,
    /// For the first line of a new file and a gap, if this one is lost: greater than `last`, less than all that comes.
    reserve: Option<[EventId; 2]>,
    /// Of the last line that was written, or is about to be.
    last: Option<EventId>,
    /// Why the last writes failed; kept for the gap that they may leave, which is told after one that succeeds.
    trouble: Option<String>,
    /// Set when the daemon ends.
    give_up_at: Option<Instant>,
}

/// The first lines of a file.
#[derive(Debug)]
struct Head {
    /// What is not written of them.
    octets: Vec<u8>,
    /// The last event before the file.
    previous: Option<EventId>,
    /// What is missing before the file; told in the next one if this one is lost with these lines.
    gap: Option<Gap<'static>>,
}

impl Head {
    /// That of a file, with the ids of its first line and of that of the gap.
    fn new(
        ids: (EventId, Option<EventId>),
        now: Duration,
        previous: Option<EventId>,
        gap: Option<Gap<'static>>,
    ) -> Self {
        let mut octets = Vec::new();
        buffer::header(&mut octets, ids.0, now, previous);
        if let (Some(id), Some(gap)) = (ids.1, &gap) {
            buffer::gap(&mut octets, id, now, gap);
        }
        Self { octets, previous, gap }
    }
}

impl Writer {
    /// Makes the first file.
    pub fn begin(shared: Arc<Shared>, mut lock: Lock, past: Past) -> io::Result<Self> {
        let now = shared.clock.wall_precise();
        let first = shared.buffer.lock().next_id();
        let gap = lock.was_open.then_some(Gap { count: None, from: past.last_time, to: now, cause: "crash" });
        let second = gap.map(|_| shared.buffer.lock().next_id());
        if let Err(error) = lock.mark() {
            tracing::warn!(%error, "until the disk has room, an unclean end of this run will not stand in the journal");
        }
        shared.keeper.set_current(first);
        let reserve = Some(shared.buffer.lock().reserve());
        let mut writer = Self {
            shared,
            lock,
            output: None,
            head: Some(Head::new((first, second), now, past.last, gap)),
            first,
            reserve,
            last: second.or(Some(first)),
            trouble: None,
            give_up_at: None,
        };
        match writer.open() {
            Err(error) if !is_full(&error) => return Err(error),
            Err(error) => writer.failed(&error),
            Ok(()) => {}
        }
        Ok(writer)
    }

    /// Runs until the journal is closed.
    pub fn run(mut self) {
        let mut spare = Vec::new();
        loop {
            let taken = self.take(spare);
            if taken.is_closing {
                self.give_up_at = Some(Instant::now() + FAREWELL);
            }
            self.look_after();
            let is_written = self.write(&taken.lines);
            if !is_written {
                // The daemon ends, and nothing may be glued to a line that was begun.
                return self.end(false);
            }
            self.shared.meters.wrote(&taken.kinds);
            self.last = taken.last.or(self.last);
            if let Some(output) = &mut self.output {
                output.events += taken.kinds.iter().sum::<u64>();
            }
            if let Some(first) = taken.header {
                self.rotate(first);
            }
            self.reserve = taken.reserve.or(self.reserve);
            if taken.is_closing {
                return self.end(true);
            }
            spare = taken.lines;
            spare.clear();
            if spare.capacity() > SPARE_MOST {
                spare = Vec::new();
            }
        }
    }

    /// Waits for events, and a little longer for more of them.
    fn take(&mut self, spare: Vec<u8>) -> Taken {
        let shared = self.shared.clone();
        let mut buffer = shared.buffer.lock();
        if buffer.is_idle() {
            buffer.is_awaited = true;
            shared.wake.wait_for(&mut buffer, LOOK);
            buffer.is_awaited = false;
        }
        let until = Instant::now() + LINGER;
        while !buffer.is_idle() && !buffer.is_enough() {
            if shared.wake.wait_until(&mut buffer, until).timed_out() {
                break;
            }
        }
        shared.meters.waiting.set(buffer.len() as f64);
        let cause = self.trouble.take().unwrap_or_else(|| "slow".to_owned());
        let now = shared.clock.wall_precise();
        let mut taken = buffer.take(spare, now, &cause, |more| self.is_over(more as u64));
        if !taken.lines.is_empty() || taken.header.is_some() || self.reserve.is_none() {
            taken.reserve = Some(buffer.reserve());
        }
        taken
    }

    /// Sees whether the file and the lock are still there, and goes on in new ones if not.
    fn look_after(&mut self) {
        if let Some(loss) = self.output.as_ref().and_then(Output::loss) {
            self.replace(loss, 0);
        } else if self.lock.is_gone() {
            // Tried again in a second; another daemon that has it meanwhile writes files of other names.
            let _ = self.lock_again();
        }
        // Fails as long as the disk is full.
        let _ = self.lock.mark();
    }

    fn lock_again(&mut self) -> io::Result<()> {
        self.lock = Lock::take(&self.shared.settings.path)?;
        Ok(())
    }

    /// Whether a new file is to begin behind `more` octets. One without events goes on for ever.
    fn is_over(&self, more: u64) -> bool {
        let settings = &self.shared.settings;
        let Some(output) = &self.output else { return false };
        let has_events = more > 0 || self.last > Some(self.first);
        has_events && (output.length + more >= settings.max_size || output.since.elapsed() >= settings.max_age)
    }

    /// Writes all of it; false only if that cannot be done and the daemon ends.
    fn write(&mut self, lines: &[u8]) -> bool {
        let mut done = 0;
        let mut wait = FIRST_RETRY;
        while done < lines.len() || self.head.is_some() {
            let written = self.open().and_then(|()| self.write_some(lines.get(done..).unwrap_or_default()));
            match written {
                Ok(written) => {
                    done += written;
                    wait = FIRST_RETRY;
                    if self.shared.failing.lock().take().is_some() {
                        tracing::info!("the journal is written again");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.failed(&error);
                    if !self.pause(wait) {
                        return false;
                    }
                    wait = (wait * 2).min(LAST_RETRY);
                    // Whoever makes room may have taken this file away.
                    if let Some(loss) = self.output.as_ref().and_then(Output::loss)
                        && self.replace(loss, done as u64)
                    {
                        done = 0;
                    }
                }
            }
        }
        true
    }

    /// Makes the file that the head is for, if it is not there, and writes that.
    fn open(&mut self) -> io::Result<()> {
        if self.output.is_none() {
            let settings = &self.shared.settings;
            // Gone with the file if the folder was moved.
            folder::make(&settings.path)?;
            let path = folder::plain_path(&settings.path, self.first);
            if self.lock.is_gone() {
                self.lock_again()?;
            }
            self.output = Some(Output::create(path, self.shared.clock.wall_precise())?);
        }
        let (Some(output), Some(head)) = (&mut self.output, &mut self.head) else { return Ok(()) };
        while !head.octets.is_empty() {
            let written = output.write(&head.octets)?;
            self.shared.meters.octets.increment(written as u64);
            head.octets.drain(..written);
        }
        if head.gap.is_some() {
            output.events += 1;
            self.shared.meters.wrote_one(Kind::Gap);
        }
        self.head = None;
        Ok(())
    }

    fn write_some(&mut self, octets: &[u8]) -> io::Result<usize> {
        let Some(output) = &mut self.output else { return Ok(0) };
        if octets.is_empty() {
            return Ok(0);
        }
        let written = output.write(octets)?;
        self.shared.meters.octets.increment(written as u64);
        Ok(written)
    }

    /// Goes on in a new file where this one is lost; the last `begun` octets of it, if they are left, are written again.
    /// False: that must wait, since no id is free for it.
    fn replace(&mut self, loss: Loss, begun: u64) -> bool {
        let Some([first, second]) = self.reserve.take() else { return false };
        let Some(output) = self.output.take() else { return false };
        let (now, path) = (self.shared.clock.wall_precise(), self.shared.settings.path.display());
        let rest = match loss {
            Loss::Removed => Ok(Rest::default()),
            Loss::Truncated => output.trim(output.length.saturating_sub(begun)),
        };
        let count = match &rest {
            Ok(rest) => Some(output.events.saturating_sub(rest.events)),
            // Nobody knows how many are left, unless there were none.
            Err(_) => (output.events == 0).then_some(0),
        };
        let from = rest.ok().and_then(|rest| rest.last_time).unwrap_or(output.began);
        let lost = count.unwrap_or(output.events);
        tracing::error!(%path, lost, cause = loss.cause(), "others have taken events from the journal");
        if lost > 0 {
            self.shared.meters.lost.increment(lost);
            self.shared.buffer.lock().note_lost(lost, from, now);
        }
        let (previous, untold) = match self.head.take() {
            // Nothing was behind it.
            Some(head) => (head.previous, head.gap),
            None => (self.last, None),
        };
        let gap = Gap { count, from: Some(from), to: now, cause: loss.cause() };
        let gap = if count == Some(0) { untold } else { Some(gap) };
        let second = gap.map(|_| second);
        self.head = Some(Head::new((first, second), now, previous, gap));
        (self.first, self.last) = (first, second.or(Some(first)));
        self.shared.keeper.set_current(first);
        if let Err(error) = self.open() {
            self.failed(&error);
        }
        true
    }

    fn failed(&mut self, error: &io::Error) {
        self.shared.meters.write_errors.increment(1);
        let was_failing = self.shared.failing.lock().replace(error.to_string()).is_some();
        if !was_failing {
            let path = self.shared.settings.path.display();
            tracing::error!(%error, %path, "the journal cannot be written; events gather in memory, then are lost");
        }
        self.trouble = Some(error.to_string());
    }

    /// Waits before a write is repeated; false: there is no time left.
    fn pause(&mut self, wait: Duration) -> bool {
        let shared = self.shared.clone();
        let mut buffer = shared.buffer.lock();
        let until = Instant::now() + wait;
        // Whoever fills the buffer wakes too.
        while !buffer.is_closing && !shared.wake.wait_until(&mut buffer, until).timed_out() {}
        shared.meters.waiting.set(buffer.len() as f64);
        let is_closing = buffer.is_closing;
        drop(buffer);
        if !is_closing {
            return true;
        }
        let give_up_at = *self.give_up_at.get_or_insert_with(|| Instant::now() + FAREWELL);
        std::thread::sleep(FIRST_RETRY);
        Instant::now() < give_up_at
    }

    /// Goes on in a new file, which begins with the line of this id.
    fn rotate(&mut self, first: EventId) {
        let now = self.shared.clock.wall_precise();
        self.output = None;
        self.head = Some(Head::new((first, None), now, self.last, None));
        (self.first, self.last) = (first, Some(first));
        self.shared.keeper.set_current(first);
        if let Err(error) = self.open() {
            self.failed(&error);
        }
    }

    fn end(&mut self, mut is_written: bool) {
        if is_written
            && let Some(loss) = self.output.as_ref().and_then(Output::loss)
            && self.replace(loss, 0)
        {
            is_written = self.write(&[]);
        }
        let buffer = self.shared.buffer.lock();
        self.shared.meters.waiting.set(buffer.len() as f64);
        drop(buffer);
        if !is_written {
            // The lock stays marked, so the next start tells of a gap.
            tracing::error!("the last events could not be written to the journal");
            return;
        }
        if let Err(error) = self.lock.release() {
            tracing::warn!(%error, "the next start will tell of a gap in the journal that is not there");
        }
    }
}

/// Whether there is no room on the disk, for octets or for files.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use parking_lot::{Condvar, Mutex};

    use super::super::event::{Event, Order};
    use super::super::{Buffer, Meters, Settings, keeper};
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Registry;

    fn writer(folder: &Path) -> Writer {
        let settings = Settings {
            path: folder.to_owned(),
            max_size: 1 << 20,
            max_age: Duration::from_secs(3_600),
            keep: Duration::from_secs(3_600),
            max_total: None,
            buffer: 1 << 20,
            mask: crate::mask::Mask::None,
        };
        folder::make(folder).unwrap();
        let shared = Shared {
            clock: Clock::system(),
            meters: Meters::new(&Registry::new().unwrap()),
            buffer: Mutex::new(Buffer::new(1, settings.buffer)),
            wake: Condvar::new(),
            failing: Mutex::default(),
            keeper: keeper::Orders::default(),
            settings,
        };
        Writer::begin(Arc::new(shared), Lock::take(folder).unwrap(), Past::default()).unwrap()
    }

    fn write_events(writer: &mut Writer, count: u64) {
        let order = Order { id: "1", action: "hold", filter: "", source: "", reason: "", who: "", until: None };
        for _ in 0..count {
            writer.shared.buffer.lock().put(&Event::Order(order), Duration::ZERO, &crate::mask::Mask::None);
        }
        let taken = writer.take(Vec::new());
        assert!(writer.write(&taken.lines));
        writer.reserve = taken.reserve;
        writer.output.as_mut().unwrap().events += count;
        writer.last = taken.last;
    }

    #[test]
    fn a_gap_that_was_not_written_when_its_file_is_lost_is_told_in_the_next_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("journal");
        let mut writer = writer(&folder);
        write_events(&mut writer, 3);
        let last = writer.last.unwrap();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(&folder, "").unwrap();
        writer.replace(Loss::Removed, 0);
        assert!(writer.shared.failing.lock().is_some(), "no file can be made there");
        // Then one is made, and removed before its head is written.
        fs::remove_file(&folder).unwrap();
        folder::make(&folder).unwrap();
        let path = folder::plain_path(&folder, writer.first);
        writer.output = Some(Output::create(path.clone(), Duration::ZERO).unwrap());
        fs::remove_file(path).unwrap();
        writer.reserve = Some(writer.shared.buffer.lock().reserve());

        writer.replace(Loss::Removed, 0);

        let text = fs::read_to_string(folder::plain_path(&folder, writer.first)).unwrap();
        assert!(text.contains(r#""event":"gap","count":3,"#) && text.contains(r#""cause":"file removed""#), "{text}");
        assert!(text.contains(&format!(r#""previous":"{last}""#)), "{text}");
        assert_eq!(writer.shared.buffer.lock().lost_in_all().unwrap().count, 3, "counted once");
    }
}
