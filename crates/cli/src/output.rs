//! What the client says: results on standard output, everything else on standard error.
//!
//! With `--json`, standard output has exactly one JSON document when the command succeeds (logs: one a line) and nothing
//! when it fails; standard error has one JSON object a line: `{"warning": {…}}` or, last, `{"error": {…}}`.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, Table};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;
use serde_json::json;

use crate::failure::Report;

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(100);

/// Who reads what we say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// A person at a terminal.
    Terminal,
    /// A file or a pipe that a person reads later.
    Lines,
    /// A program.
    Json,
}

/// Where a command's results, remarks and progress go.
#[derive(Debug, Clone)]
pub struct Output {
    reader: Reader,
    bars: MultiProgress,
}

impl Output {
    /// For the process's standard streams.
    pub fn new(json: bool) -> Self {
        let is_terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let reader = match (json, is_terminal) {
            (true, _) => Reader::Json,
            (false, true) => Reader::Terminal,
            (false, false) => Reader::Lines,
        };
        Self { reader, bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
    }

    /// Whether a program reads.
    pub fn is_json(&self) -> bool {
        self.reader == Reader::Json
    }

    /// Whether somebody is there to answer a question.
    pub fn can_ask(&self) -> bool {
        self.reader == Reader::Terminal && io::stdin().is_terminal()
    }

    /// Prints the command's result: as JSON, or as text for people.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.is_json() {
            let mut json = serde_json::to_string_pretty(value)?;
            json.push('\n');
            return self.raw(&json);
        }
        let mut text = text();
        if !text.ends_with('\n') && !text.is_empty() {
            text.push('\n');
        }
        self.raw(&text)
    }

    /// Writes text to standard output as it is, without colours where none are wanted.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn raw(&self, text: &str) -> Result<()> {
        self.bars.suspend(|| -> Result<()> {
            let mut out = anstream::stdout().lock();
            out.write_all(text.as_bytes())?;
            out.flush()?;
            Ok(())
        })
    }

    /// Writes a line of somebody else's to standard output, byte for byte.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn line(&self, text: &str) -> Result<()> {
        self.bars.suspend(|| {
            let mut out = io::stdout().lock();
            writeln!(out, "{text}")?;
            Ok(out.flush()?)
        })
    }

    /// A remark for people; programs do not get it.
    pub fn note(&self, text: impl Display) {
        if !self.is_json() {
            self.stderr(&format!("{text}"));
        }
    }

    /// Something that people and programs should look at.
    pub fn warn(&self, text: impl Display) {
        if self.is_json() {
            self.stderr(&json!({ "warning": { "message": text.to_string() } }).to_string());
        } else {
            self.stderr(&format!("{} {text}", "warning:".yellow().bold()));
        }
    }

    /// Why the command failed.
    pub fn error(&self, report: &Report) {
        if self.is_json() {
            self.stderr(&json!({ "error": report }).to_string());
            return;
        }
        self.stderr(&format!("{} {}", "error:".red().bold(), report.message));
        if let Some(hint) = &report.hint {
            self.stderr(&format!("{} {hint}", "hint:".cyan().bold()));
        }
    }

    /// A line of standard error. There is nobody left to tell when it cannot be written.
    pub fn stderr(&self, text: &str) {
        self.bars.suspend(|| {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        });
    }

    /// Something that takes a while.
    pub fn step(&self, text: impl Into<String>) -> Step {
        let bar = (self.reader == Reader::Terminal).then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}").expect("a fixed template"),
            );
            bar.enable_steady_tick(TICK);
            bar
        });
        let step = Step { output: self.clone(), bar, said: Arc::default() };
        step.say(text);
        step
    }

    /// Something that takes a while and whose size in bytes is known.
    pub fn transfer(&self, text: impl Into<String>, bytes: u64) -> Step {
        let step = self.step(text);
        if let Some(bar) = &step.bar {
            let template = "{spinner:.cyan} {msg} {bar:30.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec}";
            bar.set_style(ProgressStyle::with_template(template).expect("a fixed template"));
            bar.set_length(bytes);
        }
        step
    }
}

/// Progress of one thing: a spinner or bar at a terminal, a line for each change elsewhere. It disappears when dropped.
#[derive(Clone)]
pub struct Step {
    output: Output,
    bar: Option<ProgressBar>,
    said: Arc<Mutex<String>>,
}

impl Step {
    /// Says how far it is. What was said last is not said again.
    pub fn say(&self, text: impl Into<String>) {
        let text = text.into();
        {
            let mut said = self.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if *said == text {
                return;
            }
            said.clone_from(&text);
        }
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => self.output.note(text),
        }
    }

    /// No bytes are through: they are sent again.
    pub fn restart(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position(0);
        }
    }

    /// That many more bytes are through.
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        // Clones share the bar: the last one removes it.
        if let Some(bar) = &self.bar
            && Arc::strong_count(&self.said) == 1
        {
            bar.finish_and_clear();
        }
    }
}

/// Text of others without what would control the terminal; line ends stay.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// A time in milliseconds, for people.
pub fn seconds(ms: u64) -> String {
    format!("{:.1} s", Duration::from_millis(ms).as_secs_f64())
}

/// A table without lines, so that columns can be cut out and copied.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [Cell; N]>) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).enforce_styling();
    table.set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.add_rows(rows);
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Names and values under each other; absent values are left out. Further lines of a value are indented.
pub fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let facts: Vec<(&str, String)> = facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    for (name, value) in facts {
        let name = format!("{name}:");
        let value = value.replace('\n', &format!("\n{:width$}  ", ""));
        text.push_str(&format!("{}{:pad$}  {value}\n", name.bold(), "", pad = width - name.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_aligned_and_absent_ones_left_out() {
        let text = facts([("ID", Some("a".into())), ("Gone", None), ("State", Some("one\ntwo".into()))]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain, "ID:     a\nState:  one\n        two\n");
    }

    #[test]
    fn tables_have_no_lines() {
        let text = table(["ID", "NAME"], [[Cell::new("a"), Cell::new("bb")]]);
        assert_eq!(anstream::adapter::strip_str(&text).to_string(), "ID  NAME\na   bb\n");
    }
}
