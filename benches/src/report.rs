//! What a measurement leaves: tables for people, JSON for programs.

use std::fs;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table as Grid, presets};
use serde_json::{Value, json};

use crate::machine::Machine;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Measurement {
    /// What was chosen: repetitions, durations, options.
    pub(crate) settings: Value,
    /// The numbers, in seconds and per second.
    pub(crate) results: Vec<Value>,
    /// The same for people.
    pub(crate) tables: Vec<Table>,
    /// What has to be known to read them.
    pub(crate) notes: Vec<String>,
}

/// A table. Its first column is text, the others are numbers.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    grid: Grid,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::ASCII_MARKDOWN).set_header(columns);
        for column in grid.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        Self { title: title.into(), grid }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.grid.add_row(cells);
    }
}

impl Measurement {
    pub(crate) fn print(&self) {
        for Table { title, grid } in &self.tables {
            println!("{title}\n\n{grid}\n");
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!();
    }

    /// Writes everything as JSON. Says where.
    pub(crate) fn write(&self, name: &str, machine: &Machine) -> anyhow::Result<PathBuf> {
        let folder = aleph_tests::repository("target").join("bench");
        fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{name}.json"));
        let document = json!({
            "measurement": name,
            "machine": machine.to_json(),
            "settings": self.settings,
            "results": self.results,
            "notes": self.notes,
        });
        fs::write(&file, format!("{document:#}\n"))?;
        Ok(file)
    }
}
