//! Signed messages through the pool against the bare RSA rate of the library, on all cores.
//!
//! Load: messages of 10,240 octets (6 header fields, lines of 76 octets) by one RSA key of 2048 bits, kept coming by 64 tasks on
//! a runtime of two threads, as sessions do; `bare` is as many threads as there are cores that sign a hash, and nothing else.
//! In turn, three seconds each, five times; the share is told of each pair and its median, by the clock and by CPU time of the
//! process: the latter holds on a machine that has other work, too. Not criterion: it times one thing after the other on one
//! thread, and this is about all of them.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use hikyaku::clock::{Clock, UnixTime};
use hikyaku::dkim::{BodyHash, KeyFile, Ring, Settings, Signer, Strength, generate};
use hikyaku::message::Content;
use hikyaku::metrics::Registry;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;

const SIZE: usize = 10_240;
const TASKS: usize = 64;
const TURN: Duration = Duration::from_secs(3);
const TURNS: usize = 5;

fn message() -> String {
    let mut text = "Received: from client.test by mta.test; Sun, 22 Nov 2026 03:38:16 +0000\r\nFrom: News <news@example.com>\r\n\
                    To: u1234567x0@d42.test\r\nSubject: What is new this week\r\nDate: Sun, 22 Nov 2026 03:38:16 +0000\r\n\
                    Message-ID: <1.1234567@example.com>\r\n\r\n"
        .to_owned();
    while text.len() + 78 < SIZE {
        text.push_str(&"Lorem ipsum dolor sit amet, consetetur sadipscing elitr, sed diam nonumy e ".repeat(2)[..76]);
        text.push_str("\r\n");
    }
    text
}

/// What was done in a turn.
struct Rate {
    per_second: f64,
    /// CPU time of the process for each.
    micros: f64,
}

/// Begun turns are ended by [`Turn::end`].
struct Turn {
    begun: Instant,
    cpu: Duration,
}

impl Turn {
    fn begin() -> Self {
        Self { begun: Instant::now(), cpu: cpu_time() }
    }

    fn end(&self, count: &AtomicU64) -> Rate {
        let count = count.load(Ordering::Relaxed) as f64;
        let cpu = cpu_time() - self.cpu;
        Rate { per_second: count / self.begun.elapsed().as_secs_f64(), micros: cpu.as_secs_f64() * 1e6 / count }
    }
}

fn cpu_time() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().unwrap()
}

/// Signatures of all threads.
fn bare(pem: &str, threads: usize) -> Rate {
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap();
    let hash = digest(&SHA256, b"a header");
    let (is_over, count, turn) = (AtomicBool::new(false), AtomicU64::new(0), Turn::begin());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut signature = vec![0; pair.public_modulus_len()];
                while !is_over.load(Ordering::Relaxed) {
                    pair.sign_digest(&RSA_PKCS1_SHA256, &hash, &mut signature).unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        thread::sleep(TURN);
        is_over.store(true, Ordering::Relaxed);
    });
    turn.end(&count)
}

/// Messages through the pool.
fn signed(signer: &Signer, message: &str) -> Rate {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let turn = Turn::begin();
    let begun = turn.begun;
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..TASKS {
            let (signer, message, count) = (signer.clone(), message.to_owned(), Arc::clone(&count));
            tasks.spawn(async move {
                while begun.elapsed() < TURN {
                    let content = Content::Memory(message.clone().into());
                    signer.sign(content, None, UnixTime(1_795_318_696)).await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tasks.join_all().await;
    });
    turn.end(&count)
}

fn write_key(folder: &Path, pem: &str) -> KeyFile {
    let path = folder.join("key.pem");
    std::fs::write(&path, pem).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    KeyFile { domain: "example.com".to_owned(), selector: "s".to_owned(), path }
}

fn main() {
    let cores = thread::available_parallelism().unwrap().get();
    let folder = tempfile::tempdir().unwrap();
    let pem = generate(Strength::Rsa2048).unwrap();
    let keys = vec![write_key(folder.path(), &pem)];
    let ring = Arc::new(Ring::read(&Settings { keys, ..Settings::default() }).unwrap());
    let signer = Signer::new(cores, Clock::system(), &Registry::new().unwrap());
    signer.prepare(&ring).unwrap();
    signer.apply(ring);
    let message = message();

    let (begun, rounds) = (Instant::now(), 20_000_u32);
    let body = message.split_once("\r\n\r\n").unwrap().1;
    for _ in 0..rounds {
        std::hint::black_box(BodyHash::of(std::hint::black_box(body.as_bytes())));
    }
    println!(
        "hash of a body of {} octets: {:.1} us",
        body.len(),
        begun.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
    );
    let (mut by_clock, mut by_cpu) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let (bare, signed) = (bare(&pem, cores), signed(&signer, &message));
        let (clock, cpu) = (signed.per_second / bare.per_second * 100.0, bare.micros / signed.micros * 100.0);
        println!(
            "{cores} cores: bare {:.0}/s ({:.0} us of CPU), signed {:.0}/s ({:.0} us): {clock:.1} % by the clock, {cpu:.1} % by CPU",
            bare.per_second, bare.micros, signed.per_second, signed.micros
        );
        by_clock.push(clock);
        by_cpu.push(cpu);
    }
    let median = |mut shares: Vec<f64>| {
        shares.sort_by(f64::total_cmp);
        shares.get(TURNS / 2).copied().unwrap_or_default()
    };
    println!("median {:.1} % by the clock, {:.1} % by CPU", median(by_clock), median(by_cpu));
}
