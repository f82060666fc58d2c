//! The process as the kernel and the runtime see it: memory, descriptors, threads, processor time, tasks.
//!
//! [`Process::show`] reads `/proc` and so may block; what cannot be read keeps its last value.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::Gauge;
use rustix::process::{Resource, getrlimit};
use tokio::runtime::RuntimeMetrics;

use super::{Registry, Total};

/// `/proc/PID/stat` counts processor time in hundredths of a second on every architecture (USER_HZ; proc(5)).
const TICKS: f64 = 100.0;

/// Handles, made once.
#[derive(Debug)]
pub struct Process {
    began: Instant,
    resident: Gauge,
    virtual_size: Gauge,
    descriptors: Gauge,
    most_descriptors: Gauge,
    threads: Gauge,
    uptime: Gauge,
    user: Arc<Total>,
    system: Arc<Total>,
    runtimes: Vec<Runtime>,
}

#[derive(Debug)]
struct Runtime {
    metrics: RuntimeMetrics,
    tasks: Gauge,
    queue: Gauge,
    busy: Arc<Total>,
}

impl Process {
    /// Registers them. The process began at `began`, which was `started` since 1970, and has these runtimes, by name.
    pub fn new(registry: &Registry, began: Instant, started: Duration, runtimes: &[(&str, RuntimeMetrics)]) -> Self {
        let gauge = |name, help| registry.gauge(name, help, &[]);
        let cpu = |mode| {
            let help = "Processor time of all threads.";
            registry.total("hikyaku_process_cpu_seconds_total", help, &[("mode", mode)])
        };
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("build", build), ("arch", std::env::consts::ARCH)];
        registry.gauge("hikyaku_build_info", "Always 1; the labels tell what is running.", &labels).set(1.0);
        gauge("hikyaku_process_start_time_seconds", "When the daemon started, since 1970.").set(started.as_secs_f64());
        Self {
            began,
            resident: gauge("hikyaku_process_resident_memory_bytes", "Memory that is in use (RSS)."),
            virtual_size: gauge("hikyaku_process_virtual_memory_bytes", "Address space."),
            descriptors: gauge("hikyaku_process_open_descriptors", "Open descriptors."),
            most_descriptors: gauge("hikyaku_process_max_descriptors", "Descriptors that may be open."),
            threads: gauge("hikyaku_process_threads", "Threads."),
            uptime: gauge("hikyaku_process_uptime_seconds", "Time since the start, by the monotonic clock."),
            user: cpu("user"),
            system: cpu("system"),
            runtimes: runtimes.iter().map(|(name, metrics)| Runtime::new(registry, name, metrics)).collect(),
        }
    }

    /// Looks, and shows what is seen; it is `now`.
    pub fn show(&self, now: Instant) {
        self.uptime.set(now.saturating_duration_since(self.began).as_secs_f64());
        let usage = Usage::look();
        let seen = [
            (&self.resident, usage.resident),
            (&self.virtual_size, usage.virtual_size),
            (&self.threads, usage.threads),
            (&self.descriptors, usage.descriptors),
        ];
        for (gauge, seen) in seen {
            if let Some(seen) = seen {
                gauge.set(seen as f64);
            }
        }
        self.most_descriptors.set(usage.most_descriptors.map_or(f64::INFINITY, |most| most as f64));
        if let Some((user, system)) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(processor_time) {
            self.user.raise(user);
            self.system.raise(system);
        }
        self.runtimes.iter().for_each(Runtime::show);
    }
}

impl Runtime {
    fn new(registry: &Registry, name: &str, metrics: &RuntimeMetrics) -> Self {
        let labels = [("runtime", name)];
        let gauge = |name, help| registry.gauge(name, help, &labels);
        gauge("hikyaku_runtime_workers", "Threads that run tasks.").set(count(metrics.num_workers()));
        let help = "Time that workers spent running tasks, all workers together.";
        Self {
            metrics: metrics.clone(),
            tasks: gauge("hikyaku_runtime_tasks", "Tasks that have not ended."),
            queue: gauge("hikyaku_runtime_queue_tasks", "Tasks that wait in the queue that workers share."),
            busy: registry.total("hikyaku_runtime_busy_seconds_total", help, &labels),
        }
    }

    fn show(&self) {
        self.tasks.set(count(self.metrics.num_alive_tasks()));
        self.queue.set(count(self.metrics.global_queue_depth()));
        let workers = 0..self.metrics.num_workers();
        let busy: Duration = workers.map(|worker| self.metrics.worker_total_busy_duration(worker)).sum();
        self.busy.raise(busy.as_secs_f64());
    }
}

/// What this process takes from its machine now, as far as the system says it. Memory in octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is in use.
    pub resident: Option<u64>,
    /// Address space.
    pub virtual_size: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open descriptors.
    pub descriptors: Option<u64>,
    /// Descriptors that may be open; none: as many as there can be.
    pub most_descriptors: Option<u64>,
}

impl Usage {
    /// Reads `/proc`, and so may block; walks the table of descriptors, which takes a millisecond for some thousands.
    pub fn look() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let octets = |name| field(&status, name).map(|kibibytes| kibibytes << 10);
        // One of them reads the folder.
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(|open| open.count().saturating_sub(1) as u64);
        Self {
            resident: octets("VmRSS:"),
            virtual_size: octets("VmSize:"),
            threads: field(&status, "Threads:"),
            descriptors,
            most_descriptors: getrlimit(Resource::Nofile).current,
        }
    }
}

/// The number behind `name` in `/proc/PID/status`.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time in seconds from `/proc/PID/stat`. The second field is a name in brackets that may hold
/// anything.
fn processor_time(stat: &str) -> Option<(f64, f64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // Fields 14 and 15; the first behind the bracket is the third.
    let mut fields = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((user / TICKS, system / TICKS))
}

fn count(value: usize) -> f64 {
    u32::try_from(value).map_or(f64::from(u32::MAX), f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_name_with_brackets_and_spaces() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1183 0 0 0 250 75 0 0 20 0 9 0 1 2 3";

        assert_eq!(processor_time(stat), Some((2.5, 0.75)));
        assert_eq!(processor_time("7 (a) S 1"), None);
    }

    #[tokio::test]
    async fn the_process_is_seen_as_it_is() {
        let registry = Registry::new().unwrap();
        let (began, started) = (Instant::now(), Duration::from_secs(1_800_000_000));
        let process = Process::new(&registry, began, started, &[("main", tokio::runtime::Handle::current().metrics())]);
        let files: Vec<_> = (0..7).map(|_| fs::File::open("/dev/null").unwrap()).collect();

        process.show(began + Duration::from_secs(9));

        let text = registry.render();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
        };
        assert!(value("hikyaku_process_resident_memory_bytes") > 1e6);
        assert!(value("hikyaku_process_threads") >= 1.0);
        assert!(value("hikyaku_process_open_descriptors") >= 3.0 + files.len() as f64);
        assert!(value("hikyaku_process_max_descriptors") > value("hikyaku_process_open_descriptors"));
        assert_eq!(value("hikyaku_process_start_time_seconds"), 1.8e9);
        assert_eq!(value("hikyaku_process_uptime_seconds"), 9.0);
        assert_eq!(value("hikyaku_runtime_workers{runtime=\"main\"}"), 1.0);
    }
}
