//! Runs a program, passes its output on as it comes, and ends it when it falls silent.

use std::io::{self, Read as _};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use orchestratum_testbed::process::{Farewell, Guarded};
use rustix::process::Signal;

use crate::results::Results;

/// How soon the end of the program is seen when a process that it left behind keeps its output open.
const TICK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) enum End {
    Succeeded,
    Failed(ExitStatus),
    Hung,
}

/// Runs a command made by [`held_back`](orchestratum_testbed::process::held_back) and passes what it prints on to `out`
/// and to `results`.
///
/// Both of its streams become one, in order. It has a process group of its own, which is killed when this returns,
/// when nothing was printed for `silence`, and when this process ends in whatever way.
pub(crate) fn run(
    mut command: Command,
    silence: Duration,
    out: &mut dyn io::Write,
    results: &mut Results,
) -> Result<End> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let farewell = Farewell { signal: Signal::KILL, whole_group: true, remove: None };
    let mut program = Guarded::start(command, &farewell)?;
    let chunks = read_in_background(reader);
    let mut heard = Instant::now();
    loop {
        match chunks.recv_timeout(TICK) {
            Ok(chunk) => {
                heard = Instant::now();
                out.write_all(&chunk).and_then(|()| out.flush()).context("cannot pass the output on")?;
                results.feed(&chunk);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if program.ended()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) if heard.elapsed() >= silence => return Ok(End::Hung),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    // A program may close its output and go on.
    match program.wait(silence.saturating_sub(heard.elapsed()))? {
        Some(status) if status.success() => Ok(End::Succeeded),
        Some(status) => Ok(End::Failed(status)),
        None => Ok(End::Hung),
    }
}

fn read_in_background(mut reader: io::PipeReader) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) if sender.send(buffer[..length].to_vec()).is_err() => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use orchestratum_testbed::process::held_back;

    use super::*;

    fn watch(script: &str, silence: Duration) -> (End, Results) {
        let mut command = held_back("/bin/sh");
        command.args(["-c", script]);
        let mut results = Results::default();
        // Not to our own output, where a watching xtask would take it for ours.
        let end = run(command, silence, &mut io::sink(), &mut results).unwrap();
        (end, results)
    }

    #[test]
    fn silent_program_is_killed_and_its_last_test_is_named() {
        let started = Instant::now();
        let script =
            "echo 'test a::b ... ok'; echo 'test c::d has been running for over 60 seconds'; sleep 600 & sleep 600";
        let (end, results) = watch(script, Duration::from_secs(1));
        assert!(matches!(end, End::Hung), "{end:?}");
        assert!(started.elapsed() < Duration::from_secs(60));
        let whereabouts = results.whereabouts();
        assert!(whereabouts.contains("a::b") && whereabouts.contains("c::d"), "{whereabouts}");
    }

    #[test]
    fn process_left_behind_with_the_output_open_does_not_hold_the_run_up() {
        let started = Instant::now();
        let (end, _) = watch("sleep 600 & exit 3", Duration::from_secs(300));
        assert!(matches!(end, End::Failed(status) if status.code() == Some(3)), "{end:?}");
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn both_streams_are_read() {
        let (end, results) =
            watch("echo 'test a::sqlite ... ok'; echo 'test b::sqlite ... FAILED' >&2", Duration::from_secs(60));
        assert!(matches!(end, End::Succeeded), "{end:?}");
        assert_eq!(results.tests().count(), 2);
    }
}
