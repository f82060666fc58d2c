//! Sends the content of the transaction under way, and the commands of the next one behind it.
//!
//! In memory: one vectored write of the commands before (BDAT), the content's slices, the dot and the next commands.
//! From a file: chunk by chunk, read on the blocking pool, each written before the next is read.

use std::io::IoSlice;

use bytes::Bytes;

use super::connection::{Connection, Halt, UnderWay, load};
use super::io::Turn;
use super::job::Job;
use super::session::{Lost, Step};
use super::transaction::Transaction;
use super::work::Work;
use crate::message::{Content, Phase};
use crate::queue::Doing;

/// Octets of a file's content in memory at a time.
const CHUNK: usize = 256 * 1024;

impl Connection<'_> {
    /// Sends the content. A step means that the receiver's reply came first and the rest was not sent.
    pub(super) async fn send_content<W: Work>(
        &mut self,
        work: &mut W,
        under_way: &mut UnderWay<W::Ticket>,
    ) -> Result<Option<Step>, Halt> {
        let (Some(job), Some(transaction)) = (&under_way.current, self.session.current()) else {
            return Ok(None);
        };
        let content = job.message.content.clone();
        let may_look_ahead = self.may_look_ahead() && job.is_last_transaction() && !transaction.has_too_many();
        let recipients: Vec<u32> = transaction.live_recipients().collect();
        let attempt = work.attempt(job.message.id, &recipients, self.session.peer().address);
        attempt.await.map_err(|_| Halt::NotRecorded)?;
        self.awaited = None;
        self.shared.meters.attempts.increment(u64::try_from(recipients.len()).unwrap_or_default());
        let next = if may_look_ahead { self.begin_ahead(work, under_way).await } else { None };
        self.note(Doing::Transaction(Phase::Content));
        match content {
            Content::Memory(octets) => self.send_memory(&octets, next).await,
            Content::File { .. } => self.send_file(content, next).await,
        }
    }

    /// The next message's transaction, if its commands may follow this content.
    async fn begin_ahead<W: Work>(&self, work: &mut W, under_way: &mut UnderWay<W::Ticket>) -> Option<Transaction> {
        if under_way.held.is_some() {
            return None;
        }
        let ticket = work.try_take_ahead()?;
        let mut job: Job<W::Ticket> = load(self.shared, work, ticket).await?;
        let most = self.recipients_per_transaction();
        if self.mismatch(&job).is_some() || self.is_doubted_elsewhere(work, &job) || !job.fits(most) {
            under_way.held = Some(job);
            return None;
        }
        let transaction = job.next_transaction(most)?;
        job.is_ahead = true;
        under_way.next = Some(job);
        self.probe(under_way.next.as_ref());
        self.shared.meters.look_aheads.increment(1);
        self.shared.meters.transactions.increment(1);
        Some(transaction)
    }

    async fn send_memory(&mut self, content: &Bytes, next: Option<Transaction>) -> Result<Option<Step>, Halt> {
        let mut head = std::mem::take(self.session.output());
        let mut slices = Vec::with_capacity(8);
        push(&mut slices, &head);
        let mut end: &[u8] = b"";
        if self.session.uses_bdat() {
            push(&mut slices, content);
        } else {
            self.stuffer.restart();
            self.stuffer.stuff(content, &mut slices);
            end = self.stuffer.end();
        }
        let before: usize = slices.iter().map(|slice| slice.len()).sum();
        self.session.begin_content(end, next);
        let tail = std::mem::take(self.session.output());
        push(&mut slices, &tail);
        let step = self.send(&mut slices, Some(before + end.len())).await?;
        // The larger buffer is kept for the commands to come.
        head.clear();
        *self.session.output() = if tail.capacity() > head.capacity() { emptied(tail) } else { head };
        Ok(step)
    }

    async fn send_file(&mut self, content: Content, next: Option<Transaction>) -> Result<Option<Step>, Halt> {
        let head = std::mem::take(self.session.output());
        let bdat = self.session.uses_bdat();
        self.stuffer.restart();
        self.session.begin_content(b"", None);
        if let Some(step) = self.send(&mut [IoSlice::new(&head)], None).await? {
            return Ok(Some(step));
        }
        let (mut sent, length) = (0, content.len());
        while sent < length {
            let source = content.clone();
            let reading = tokio::task::spawn_blocking(move || source.chunk(sent, CHUNK));
            let chunk = match reading.await {
                Ok(read) => read.map_err(Halt::Unreadable)?,
                Err(error) => match error.try_into_panic() {
                    // As if it had been in this task, which has the message in its hands.
                    Ok(payload) => std::panic::resume_unwind(payload),
                    Err(error) => return Err(Halt::Unreadable(error.into())),
                },
            };
            if chunk.is_empty() {
                return Err(Halt::Unreadable(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let mut slices = Vec::new();
            if bdat {
                push(&mut slices, &chunk);
            } else {
                self.stuffer.stuff(&chunk, &mut slices);
            }
            sent += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            let is_end = bdat && sent >= length;
            if let Some(step) = self.send(&mut slices, is_end.then_some(chunk.len())).await? {
                return Ok(Some(step));
            }
        }
        if bdat {
            return Ok(None);
        }
        let end = self.stuffer.end();
        self.session.end_content(end, next);
        let tail = std::mem::take(self.session.output());
        self.send(&mut [IoSlice::new(&tail)], Some(end.len())).await
    }

    /// Writes all `slices`. With the first `left_at` octets of them the end of data has left.
    async fn send(&mut self, slices: &mut [IoSlice<'_>], left_at: Option<usize>) -> Result<Option<Step>, Halt> {
        let mut rest = slices;
        let mut written = 0;
        IoSlice::advance_slices(&mut rest, 0);
        // Renewed by octets that went out only: a receiver that takes nothing but goes on talking has stalled.
        self.io.set_deadline(self.shared.settings.timeouts.data_block);
        while !rest.is_empty() {
            match self.io.turn(rest, self.session.room()).await.map_err(Halt::Lost)? {
                Turn::Wrote(0) | Turn::Read(0) => return Err(Halt::Lost(Lost::Closed)),
                Turn::Wrote(count) => {
                    self.io.set_deadline(self.shared.settings.timeouts.data_block);
                    IoSlice::advance_slices(&mut rest, count);
                    written += count;
                    if left_at.is_some_and(|left_at| written >= left_at) && self.left_at.is_none() {
                        self.left_at = Some(self.shared.clock.now());
                        self.session.content_left();
                    }
                }
                Turn::Read(_) => match self.session.step() {
                    Step::Read | Step::Content => {}
                    step => return Ok(Some(step)),
                },
            }
        }
        self.io.flush().await.map_err(Halt::Lost)?;
        Ok(None)
    }
}

fn push<'a>(slices: &mut Vec<IoSlice<'a>>, octets: &'a [u8]) {
    if !octets.is_empty() {
        slices.push(IoSlice::new(octets));
    }
}

fn emptied(mut buffer: Vec<u8>) -> Vec<u8> {
    buffer.clear();
    buffer
}
