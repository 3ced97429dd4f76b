//! Requests of single programs. Counting takes a lock that is only read, and no allocation.
//!
//! There are numbers of `MAX_PROGRAMS` programs at most: when another one comes, those of the program that was asked longest ago
//! are forgotten. Only programs that exist get here, so nobody drives them out by asking for what does not.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use lease::clock;
use protocol::ProgramId;

/// How many programs are counted at most.
const MAX_PROGRAMS: usize = 500;

/// Bounds of the histogram, in seconds; few, as every program has them.
const SECONDS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// How a request came to its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    /// By a copy that ran.
    Warm,
    /// By a copy that was frozen.
    Frozen,
    /// It waited for a copy, which was started in a sandbox that had been made in advance.
    Claimed,
    /// It waited for a copy, which was started in a sandbox that was made for it.
    Cold,
    /// By another node.
    Elsewhere,
    /// By no copy: this gateway answered itself.
    Refused,
}

impl Served {
    const ALL: [Self; 6] = [Self::Warm, Self::Frozen, Self::Claimed, Self::Cold, Self::Elsewhere, Self::Refused];

    fn label(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Frozen => "frozen",
            Self::Claimed => "claimed",
            Self::Cold => "cold",
            Self::Elsewhere => "elsewhere",
            Self::Refused => "refused",
        }
    }
}

/// `1xx` to `5xx`.
const CLASSES: usize = 5;

/// The requests of all programs.
#[derive(Debug, Default)]
pub(super) struct Programs(RwLock<HashMap<ProgramId, Requests>>);

/// The requests of one program.
#[derive(Debug, Default)]
struct Requests {
    counts: [[AtomicU64; CLASSES]; Served::ALL.len()],
    /// One more than bounds: what took longer.
    seconds: [AtomicU64; SECONDS.len() + 1],
    nanos: AtomicU64,
    /// When it was asked last, in nanoseconds since the machine started.
    last: AtomicU64,
    /// How its last copy was started, as its place in [`Served::ALL`]; 0 for unknown.
    start: AtomicU8,
}

impl Programs {
    /// A request was answered with this status, `took` until the head of the answer.
    pub(super) fn answered(&self, program: ProgramId, status: u16, served: Served, took: Duration) {
        self.with(program, |requests| requests.answered(status, served, took));
    }

    /// A copy is being started, in a sandbox that `waited` or in a new one.
    pub(super) fn starts(&self, program: ProgramId, waited: bool) {
        let served = if waited { Served::Claimed } else { Served::Cold };
        self.with(program, |requests| requests.start.store(served as u8, Ordering::Relaxed));
    }

    /// How a request was served that waited for a copy to be started.
    pub(super) fn last_start(&self, program: ProgramId) -> Served {
        self.with(program, |requests| {
            let start = usize::from(requests.start.load(Ordering::Relaxed));
            if start == 0 { Served::Cold } else { Served::ALL[start] }
        })
    }

    fn with<T>(&self, program: ProgramId, use_it: impl FnOnce(&Requests) -> T) -> T {
        const LOCK: &str = "no code panics while it holds this lock";
        let now = clock::now();
        if let Some(requests) = self.0.read().expect(LOCK).get(&program) {
            requests.last.store(now.as_nanos(), Ordering::Relaxed);
            return use_it(requests);
        }
        let mut all = self.0.write().expect(LOCK);
        if all.len() >= MAX_PROGRAMS && !all.contains_key(&program) {
            let oldest = all.iter().min_by_key(|(_, requests)| requests.last.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(program, _)| *program) {
                all.remove(&oldest);
            }
        }
        let requests = all.entry(program).or_default();
        requests.last.store(now.as_nanos(), Ordering::Relaxed);
        use_it(requests)
    }

    /// Everything in the text format of Prometheus.
    pub(super) fn render(&self, text: &mut String) {
        let all = self.0.read().expect("no code panics while it holds this lock");
        // Writing to a String cannot fail.
        if !all.is_empty() {
            let _ = writeln!(text, "# TYPE aleph_program_requests_total counter");
            let _ = writeln!(text, "# TYPE aleph_program_answer_seconds histogram");
        }
        let mut all: Vec<_> = all.iter().collect();
        all.sort_by_key(|(program, _)| **program);
        for (program, requests) in &all {
            requests.render_counts(text, program);
        }
        for (program, requests) in &all {
            requests.render_seconds(text, program);
        }
    }
}

impl Requests {
    fn answered(&self, status: u16, served: Served, took: Duration) {
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        self.counts[served as usize][class].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.seconds[bucket].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn render_counts(&self, text: &mut String, program: &ProgramId) {
        for (served, classes) in Served::ALL.iter().zip(&self.counts) {
            for (class, count) in (1..).zip(classes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let (name, served) = ("aleph_program_requests_total", served.label());
                    let labels = format!("program=\"{program}\",status=\"{class}xx\",served=\"{served}\"");
                    let _ = writeln!(text, "{name}{{{labels}}} {count}");
                }
            }
        }
    }

    fn render_seconds(&self, text: &mut String, program: &ProgramId) {
        let name = "aleph_program_answer_seconds";
        let mut sum = 0;
        let bounds = SECONDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        let counts = self.seconds.iter().map(|count| count.load(Ordering::Relaxed));
        let lines: Vec<_> = bounds.zip(counts).collect();
        if lines.iter().all(|(_, count)| *count == 0) {
            return;
        }
        for (bound, count) in lines {
            sum += count;
            let _ = writeln!(text, "{name}_bucket{{program=\"{program}\",le=\"{bound}\"}} {sum}");
        }
        let seconds = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        let _ = writeln!(text, "{name}_sum{{program=\"{program}\"}} {seconds}");
        let _ = writeln!(text, "{name}_count{{program=\"{program}\"}} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(number: usize) -> ProgramId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        ProgramId::from_bytes(bytes)
    }

    #[test]
    fn requests_are_counted_by_program_status_and_way() {
        let (programs, id) = (Programs::default(), program(1));
        let ms = Duration::from_millis;
        assert_eq!(programs.last_start(id), Served::Cold, "one that is not known is none that waited");
        programs.starts(id, true);
        programs.answered(id, 200, programs.last_start(id), ms(30));
        programs.answered(id, 204, Served::Warm, ms(3));
        programs.answered(id, 200, Served::Warm, ms(4));
        programs.answered(id, 504, Served::Refused, ms(61_000));
        let mut text = String::new();
        programs.render(&mut text);
        for line in [
            format!("aleph_program_requests_total{{program=\"{id}\",status=\"2xx\",served=\"warm\"}} 2"),
            format!("aleph_program_requests_total{{program=\"{id}\",status=\"2xx\",served=\"claimed\"}} 1"),
            format!("aleph_program_requests_total{{program=\"{id}\",status=\"5xx\",served=\"refused\"}} 1"),
            format!("aleph_program_answer_seconds_bucket{{program=\"{id}\",le=\"0.001\"}} 0"),
            format!("aleph_program_answer_seconds_bucket{{program=\"{id}\",le=\"0.005\"}} 2"),
            format!("aleph_program_answer_seconds_bucket{{program=\"{id}\",le=\"60\"}} 3"),
            format!("aleph_program_answer_seconds_bucket{{program=\"{id}\",le=\"+Inf\"}} 4"),
            format!("aleph_program_answer_seconds_sum{{program=\"{id}\"}} 61.037"),
            format!("aleph_program_answer_seconds_count{{program=\"{id}\"}} 4"),
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("requests_total{").count(), 3, "what did not happen is not shown: {text}");
    }

    #[test]
    fn the_program_that_was_asked_longest_ago_makes_way() {
        let programs = Programs::default();
        let ask = |number| programs.answered(program(number), 200, Served::Warm, Duration::ZERO);
        (0..MAX_PROGRAMS).for_each(ask);
        ask(0);
        ask(MAX_PROGRAMS);
        let all = programs.0.read().unwrap();
        assert_eq!(all.len(), MAX_PROGRAMS);
        assert!(all.contains_key(&program(0)) && all.contains_key(&program(MAX_PROGRAMS)));
        assert!(!all.contains_key(&program(1)));
    }
}
