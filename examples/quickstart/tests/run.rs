//! Runs the program as its users do.
#![allow(clippy::unwrap_used, reason = "in helpers of tests, too, a panic is the message")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use orchestratum_core::{Filter, Orchestrator, Page, State};
use tempfile::TempDir;

fn quickstart(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quickstart"));
    command.arg("--folder").arg(folder.path()).args(arguments).env_remove("DATABASE_URL").env_remove("SMTP_URL");
    command
}

fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The messages in the outbox, by recipient.
fn messages(folder: &Path) -> BTreeMap<String, String> {
    let files: Vec<_> = std::fs::read_dir(folder.join("outbox")).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.iter().all(|file| file.extension().unwrap() == "eml"), "{files:?}");
    let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap());
    let messages: BTreeMap<_, _> = texts.map(|text| (header(&text, "To").to_owned(), text)).collect();
    assert_eq!(messages.len(), files.len(), "somebody got two messages");
    messages
}

fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let (headers, _) = message.split_once("\r\n\r\n").unwrap();
    headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap()
}

async fn states(folder: &Path) -> Vec<State> {
    let url = format!("sqlite://{}/app.db", folder.display());
    let orchestrator = Orchestrator::builder().database(url).client_only().build().await.unwrap();
    let commands = orchestrator.list(Filter::all(), Page::default()).await.unwrap();
    commands.into_iter().map(|command| command.state).collect()
}

#[test]
fn every_email_becomes_a_message_in_the_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let output = quickstart(&folder, &["--count", "10"]).output().unwrap();
    let printed = printed(&output);
    assert!(printed.starts_with("appended 10 e-mails\n"), "{printed}");
    assert!(printed.ends_with("\n10 of 10 commands are completed, 0 are left\n"), "{printed}");
    assert_eq!(printed.matches("(send-email, attempt 1)").count(), 5, "{printed}");
    assert_eq!(printed.matches("(send_email, attempt 1)").count(), 5, "{printed}");

    let messages = messages(folder.path());
    assert_eq!(messages.len(), 10);
    for number in 1..=10 {
        let message = &messages[&format!("user{number}@example.org")];
        let subject = if number % 2 == 1 { format!("Welcome, user {number}") } else { format!("Invoice {number}") };
        assert_eq!(header(message, "Subject"), subject);
        assert_eq!(header(message, "From"), "Quickstart <quickstart@example.org>");
        assert!(header(message, "Message-ID").ends_with("@example.org>"));
        assert!(message.ends_with(&format!("\r\n\r\nDear user {number},\r\n\r\nit works.\r\n")), "{message}");
    }
}

#[tokio::test]
async fn a_second_run_sends_what_a_killed_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = quickstart(&folder, &["--count", "10", "--slow", "100"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "appended 10 e-mails");
    assert!(lines.next().unwrap().unwrap().ends_with("attempt 1)"));
    killed.kill().unwrap();
    assert!(!killed.wait().unwrap().success());
    let before = std::fs::read_dir(folder.path().join("outbox")).unwrap().count();
    assert!((1..10).contains(&before), "{before} files after the kill");

    let output = quickstart(&folder, &["--count", "10", "--slow", "1"]).output().unwrap();
    let printed = printed(&output);
    assert!(printed.starts_with("an earlier run left "), "{printed}");
    assert!(printed.ends_with(" commands are completed, 0 are left\n"), "{printed}");
    assert_eq!(messages(folder.path()).len(), 10);
    let states = states(folder.path()).await;
    assert_eq!(states, [State::Completed; 10]);
}

/// One connection to a mail server that accepts everything; returns what it was given.
fn receive(stream: TcpStream) -> String {
    let (mut answers, mut message, mut in_data) = (stream.try_clone().unwrap(), String::new(), false);
    answers.write_all(b"220 ready\r\n").unwrap();
    for line in BufReader::new(stream).lines().map(Result::unwrap) {
        if in_data && line != "." {
            message.push_str(&format!("{line}\r\n"));
            continue;
        }
        in_data = line == "DATA";
        answers.write_all(if in_data { b"354 go on\r\n" } else { b"250 fine\r\n" }).unwrap();
        if line == "QUIT" {
            break;
        }
    }
    message
}

#[test]
fn with_a_mail_server_the_messages_go_there() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("smtp://{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let messages = listener.incoming().take(3).map(|stream| receive(stream.unwrap()));
        messages.map(|message| header(&message, "To").to_owned()).collect::<Vec<_>>()
    });
    let output = quickstart(&folder, &["--count", "3"]).env("SMTP_URL", url).output().unwrap();
    assert!(printed(&output).ends_with("\n3 of 3 commands are completed, 0 are left\n"));
    let mut recipients = server.join().unwrap();
    recipients.sort();
    assert_eq!(recipients, ["user1@example.org", "user2@example.org", "user3@example.org"]);
    assert!(messages(folder.path()).is_empty());
}
