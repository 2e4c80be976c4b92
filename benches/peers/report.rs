//! Figures and the table they are printed in.

use std::fmt;
use std::time::Duration;

/// One measured thing by one program: its runs, and the budget it must keep.
pub struct Figure {
    pub what: &'static str,
    pub who: &'static str,
    runs: Vec<f64>,
    floor_ms: Option<f64>,
    note: Option<String>,
}

impl Figure {
    pub fn new(what: &'static str, who: &'static str) -> Self {
        Figure { what, who, runs: Vec::new(), floor_ms: None, note: None }
    }

    /// The median must not be above this many milliseconds.
    pub fn floor_ms(mut self, ms: f64) -> Self {
        self.floor_ms = Some(ms);
        self
    }

    /// A peer that could not be measured, and why.
    pub fn missing(what: &'static str, who: &'static str, why: impl Into<String>) -> Self {
        Figure { note: Some(why.into()), ..Figure::new(what, who) }
    }

    pub fn push(&mut self, took: Duration) {
        self.runs.push(took.as_secs_f64() * 1e3);
    }

    pub fn median_ms(&self) -> Option<f64> {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    fn range(&self) -> Option<(f64, f64)> {
        let low = self.runs.iter().copied().min_by(f64::total_cmp)?;
        let high = self.runs.iter().copied().max_by(f64::total_cmp)?;
        Some((low, high))
    }
}

/// All figures of a run, peers under what they are compared with.
#[derive(Default)]
pub struct Table(Vec<Figure>);

impl Table {
    pub fn add(&mut self, figure: Figure) {
        self.0.push(figure);
    }

    /// The figures whose median is over their budget, worded for the error.
    pub fn missed(&self) -> Vec<String> {
        self.0
            .iter()
            .filter_map(|f| {
                let (floor, median) = (f.floor_ms?, f.median_ms()?);
                (median > floor).then(|| format!("{} took {median:.1} ms, budget {floor} ms", f.what))
            })
            .collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "| what | who | median ms | min – max | runs | budget |")?;
        writeln!(out, "|---|---|--:|--:|--:|--:|")?;
        for f in &self.0 {
            let budget = f.floor_ms.map_or(String::from("–"), |ms| format!("≤ {ms:.0}"));
            match (f.median_ms(), f.range()) {
                (Some(median), Some((low, high))) => {
                    let runs = f.runs.len();
                    writeln!(
                        out,
                        "| {} | {} | {median:.1} | {low:.1} – {high:.1} | {runs} | {budget} |",
                        f.what, f.who
                    )?;
                }
                _ => {
                    let why = f.note.as_deref().unwrap_or("not measured");
                    writeln!(out, "| {} | {} | {why} | | | {budget} |", f.what, f.who)?;
                }
            }
        }
        Ok(())
    }
}
