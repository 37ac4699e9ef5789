//! Progress on stderr, where that is a terminal.

use std::sync::Mutex;
use std::time::Duration;

use compress_core::progress::{Progress, Unit};
use indicatif::{ProgressBar, ProgressStyle};

/// A progress bar for one piece of work after another.
#[derive(Default)]
pub struct Bar {
    current: Mutex<Option<ProgressBar>>,
}

impl Bar {
    fn with(&self, f: impl FnOnce(&mut Option<ProgressBar>)) {
        f(&mut self.current.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        let units = match unit {
            Unit::Bytes => "{bytes}/{total_bytes} {bytes_per_sec}",
            Unit::Count => "{human_pos}/{human_len}",
        };
        let template = format!("{{msg:22}} [{{bar:30}}] {units}, {{eta}} left {{prefix}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_message(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|current| *current = Some(bar));
    }

    fn advance(&self, units: u64) {
        self.with(|current| {
            if let Some(bar) = current {
                bar.inc(units);
            }
        });
    }

    fn note(&self, text: &str) {
        self.with(|current| {
            if let Some(bar) = current {
                bar.set_prefix(text.to_string());
            }
        });
    }

    fn end(&self) {
        self.with(|current| {
            if let Some(bar) = current.take() {
                bar.finish_and_clear();
            }
        });
    }

    fn say(&self, line: &str) {
        self.with(|current| match current {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        });
    }
}
