//! `cargo xtask ci`: what must hold beside the tests.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{cargo_command, target};

/// The crates whose database features must each work alone.
const PACKAGES: [&str; 3] = ["orchestratum-core", "orchestratum-mediator", "orchestratum-migration"];
const FEATURES: [&str; 3] = ["sqlite", "postgres", "mysql"];

/// Where `cargo deny` gets its advisories from.
const ADVISORIES: &str = "https://github.com/RustSec/advisory-db";

struct Step {
    name: String,
    arguments: Vec<&'static str>,
    environment: &'static [(&'static str, &'static str)],
}

/// Runs every step, also behind a failed one; `false` when one failed.
pub(crate) fn run() -> Result<bool> {
    let tools = target().join("tools");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([tools.join("bin")].into_iter().chain(std::env::split_paths(&path)))?;
    let mut verdicts = Vec::new();
    let advisories = if is_reachable(ADVISORIES) {
        Some(Step { name: "advisories".to_owned(), arguments: vec!["deny", "check", "advisories"], environment: &[] })
    } else {
        println!("SKIPPED: advisories, for {ADVISORIES} cannot be reached from here");
        None
    };
    for step in steps().into_iter().chain(advisories) {
        println!("---- {}: cargo {}", step.name, step.arguments.join(" "));
        let started = Instant::now();
        let mut command = cargo_command(&step.arguments);
        command.envs(step.environment.iter().copied()).stdin(Stdio::null());
        command.env("PATH", &path).env("CARGO_INSTALL_ROOT", &tools);
        let status = command.status().context("cannot run cargo")?;
        let verdict = verdict(&step.name, status.success(), started.elapsed());
        println!("{verdict}");
        verdicts.push((status.success(), verdict));
    }
    println!("\n---- summary");
    verdicts.iter().for_each(|(_, verdict)| println!("{verdict}"));
    Ok(verdicts.iter().all(|(passed, _)| *passed))
}

/// Whether a repository answers; not every place that runs this has a way to it.
fn is_reachable(repository: &str) -> bool {
    let mut git = Command::new("git");
    git.args([
        "-c",
        "http.lowSpeedLimit=1",
        "-c",
        "http.lowSpeedTime=10",
        "ls-remote",
        "--quiet",
        "--heads",
        repository,
    ]);
    let status =
        git.env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn steps() -> Vec<Step> {
    let step = |name: &str, arguments: &[&'static str], environment| Step {
        name: name.into(),
        arguments: arguments.to_vec(),
        environment,
    };
    let mut steps = vec![
        step("format", &["fmt", "--all", "--check"], &[]),
        step("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"], &[]),
        step(
            "documentation",
            &["doc", "--workspace", "--no-deps", "--all-features"],
            &[("RUSTDOCFLAGS", "-Dwarnings")],
        ),
    ];
    // Nothing to do where it has been installed before.
    steps.push(step("cargo-deny", &["install", "cargo-deny", "--version", "=0.20.2", "--locked", "--debug"], &[]));
    steps.push(step("licences, bans, sources", &["deny", "check", "bans", "licenses", "sources"], &[]));
    for package in PACKAGES {
        for feature in FEATURES {
            // Clippy and not `check`: it can refuse warnings without building every dependency anew, as RUSTFLAGS would.
            let arguments =
                ["clippy", "-p", package, "--no-default-features", "--features", feature, "--", "-D", "warnings"];
            steps.push(step(&format!("{package} with {feature} alone"), &arguments, &[]));
        }
    }
    steps
}

fn verdict(name: &str, passed: bool, took: Duration) -> String {
    let word = if passed { "ok" } else { "FAILED" };
    format!("{word:<7}{name:<42}{:>7.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_feature_is_checked_alone_in_each_crate() {
        let alone: Vec<_> =
            steps().into_iter().filter(|step| step.arguments.contains(&"--no-default-features")).collect();
        assert_eq!(alone.len(), 9);
        assert!(
            alone
                .iter()
                .all(|step| { step.arguments.iter().filter(|argument| FEATURES.contains(argument)).count() == 1 })
        );
    }

    #[test]
    fn verdict_is_one_line() {
        assert_eq!(
            verdict("format", true, Duration::from_millis(1240)),
            "ok     format                                        1.2 s"
        );
    }
}
