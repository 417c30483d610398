//! What became of each test, read from the output of `cargo test`.
//!
//! libtest's machine-readable output is not stable, its lines for people have not changed in years: a finished test is
//! `test NAME ... ok`. With one test thread the name comes first and the verdict when the test has ended, perhaps with
//! output of other processes between them.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    Ignored,
}

/// A test's name is unique in its program only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Test {
    pub(crate) program: String,
    pub(crate) name: String,
}

#[derive(Debug, Default)]
pub(crate) struct Results {
    tests: BTreeMap<Test, Verdict>,
    unfinished_line: Vec<u8>,
    program: String,
    /// Named on a line whose verdict has not come yet.
    announced: Option<String>,
    /// Reported by libtest as running for over a minute.
    slow: BTreeSet<String>,
    last_finished: Option<String>,
}

impl Results {
    /// Takes the next piece of output, which may end anywhere.
    pub(crate) fn feed(&mut self, output: &[u8]) {
        self.unfinished_line.extend_from_slice(output);
        while let Some(end) = self.unfinished_line.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished_line.drain(..=end).collect();
            self.line(&without_colors(&String::from_utf8_lossy(&line)));
        }
    }

    pub(crate) fn tests(&self) -> impl Iterator<Item = (&Test, Verdict)> {
        self.tests.iter().map(|(test, verdict)| (test, *verdict))
    }

    /// Where the run was when it fell silent.
    pub(crate) fn whereabouts(&self) -> String {
        let unfinished = without_colors(&String::from_utf8_lossy(&self.unfinished_line));
        let on_the_line = test_line(&unfinished).map(|(name, _)| name.to_owned());
        let mut running: Vec<_> = self.slow.iter().cloned().chain(on_the_line).chain(self.announced.clone()).collect();
        running.dedup();
        let program =
            if self.program.is_empty() { "no test program had started".into() } else { format!("in {}", self.program) };
        let running = if running.is_empty() {
            "no test known to be running".into()
        } else {
            format!("running: {}", running.join(", "))
        };
        let last = self.last_finished.as_deref().unwrap_or("none");
        format!("{program}, {running}, last test finished: {last}")
    }

    fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(program) = program_line(line) {
            self.program = program.to_owned();
            self.announced = None;
            self.slow.clear();
        } else if let Some(name) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" has been running for over "))
        {
            self.slow.insert(name.0.to_owned());
        } else if let Some((name, rest)) = test_line(line) {
            match verdict(rest) {
                Some(verdict) => self.finished(name.to_owned(), verdict),
                None => self.announced = Some(name.to_owned()),
            }
        } else if let Some(verdict) = verdict(line)
            && let Some(name) = self.announced.take()
        {
            self.finished(name, verdict);
        }
    }

    fn finished(&mut self, name: String, verdict: Verdict) {
        self.slow.remove(&name);
        self.announced = None;
        self.last_finished = Some(name.clone());
        self.tests.insert(Test { program: self.program.clone(), name }, verdict);
    }
}

/// `Running tests/suite.rs (target/debug/deps/suite-0123)` or `Doc-tests orchestratum_core`, both indented.
fn program_line(line: &str) -> Option<&str> {
    let text = line.strip_prefix("  ")?.trim_start();
    text.strip_prefix("Running ")
        .filter(|rest| rest.ends_with(')'))
        .or_else(|| text.starts_with("Doc-tests ").then_some(text))
}

/// The name, and what stands in the verdict's place.
fn test_line(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.strip_suffix(" - should panic").unwrap_or(name), rest))
}

fn verdict(text: &str) -> Option<Verdict> {
    match text.split([' ', ',']).next()? {
        "ok" => Some(Verdict::Passed),
        "FAILED" => Some(Verdict::Failed),
        "ignored" => Some(Verdict::Ignored),
        _ => None,
    }
}

/// Removes terminal sequences of the form `ESC [ … letter`.
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(|character: char| character.is_ascii_alphabetic()).map_or("", |(_, rest)| rest));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str) -> Results {
        let mut results = Results::default();
        // Pieces of three bytes: no piece may be taken for a line.
        output.as_bytes().chunks(3).for_each(|piece| results.feed(piece));
        results
    }

    fn verdicts(results: &Results) -> Vec<(&str, Verdict)> {
        results.tests().map(|(test, verdict)| (test.name.as_str(), verdict)).collect()
    }

    #[test]
    fn reads_every_kind_of_line() {
        let results = read(
            "
   Compiling orchestratum-core v0.1.0
     Running tests/suite.rs (target/debug/deps/suite-01ab)

running 5 tests
test append::a_row_survives::sqlite ... ok
test append::a_row_survives::postgres ... FAILED
test b ... ignored, needs a network
test c - should panic ... ok
test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test d ... ok <0.123s>
",
        );
        assert_eq!(
            verdicts(&results),
            [
                ("append::a_row_survives::postgres", Verdict::Failed),
                ("append::a_row_survives::sqlite", Verdict::Passed),
                ("b", Verdict::Ignored),
                ("c", Verdict::Passed),
                ("d", Verdict::Passed),
            ]
        );
    }

    #[test]
    fn same_name_in_two_programs_is_two_tests() {
        let results = read(
            "
     Running tests/a.rs (target/a-1)
test x ... ok
\u{1b}[1m\u{1b}[92m   Doc-tests\u{1b}[0m core
test x ... FAILED
",
        );
        let tests: Vec<_> = results.tests().map(|(test, verdict)| (test.program.as_str(), verdict)).collect();
        assert_eq!(tests, [("Doc-tests core", Verdict::Failed), ("tests/a.rs (target/a-1)", Verdict::Passed)]);
    }

    #[test]
    fn output_between_name_and_verdict_does_not_lose_the_test() {
        let results = read("test x ... hello from a child\nmore\nok\ntest y ... FAILED\nok\n");
        assert_eq!(verdicts(&results), [("x", Verdict::Passed), ("y", Verdict::Failed)]);
    }

    #[test]
    fn knows_which_test_was_running() {
        let results = read(
            "
     Running tests/a.rs (target/a-1)
test fast ... ok
test slow has been running for over 60 seconds
test slower has been running for over 60 seconds
test slow ... ok
test begun ... ",
        );
        let whereabouts = results.whereabouts();
        assert!(whereabouts.contains("running: slower, begun"), "{whereabouts}");
        assert!(whereabouts.contains("finished: slow"), "{whereabouts}");
        assert!(Results::default().whereabouts().contains("no test program had started"));
    }
}
