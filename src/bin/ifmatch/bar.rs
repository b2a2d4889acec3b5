//! A bar that tells how far a command has come, if standard error is a terminal.

use std::fs::File;
use std::io::Read;

use ifmatch::Progress;
use indicatif::{ProgressBar, ProgressStyle};

#[derive(Clone)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// Shows nothing before it is told something.
    pub(crate) fn new() -> Bar {
        // Hidden by itself where there is no terminal.
        let bar = ProgressBar::new(0);
        let template = "{msg} {wide_bar} {bytes} of {total_bytes}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Bar(bar)
    }

    pub(crate) fn show(&self, Progress { phase, done, total, .. }: Progress) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(phase.to_string());
    }

    /// Shows how much of the file has been read.
    pub(crate) fn reading(&self, file: File) -> impl Read + use<> {
        self.0.set_message("reading the dump");
        self.0.set_length(file.metadata().map_or(0, |file| file.len()));
        self.0.wrap_read(file)
    }

    pub(crate) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
