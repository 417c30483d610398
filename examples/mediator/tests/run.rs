//! Runs the program as its users do.

const STORY: &str = "\
serves create_user, get_user, send_email<invoice>, send_email<welcome>
send: the handler runs here and now, and what it publishes is heard by two
  > create_user is sent
  audit: Ada was created
  an e-mail to Ada is appended
  < create_user
  > get_user is sent
  < get_user
  user 2 is Ada
behaviors: one refuses a request, another one answers for a handler that fails
  > create_user is sent
  < create_user failed: a user needs a name
  > get_user is sent
  < get_user
  user 99 is a guest
streams: items come as they are read
  Grace
  Ada
append: what a handler appended above runs in the background, behaviors included
  > send_email<welcome> runs durably
  < send_email<welcome>
  its output: Completed(\"Welcome, Ada\")
generics: another template, another name, the same handler
  > send_email<invoice> runs durably
  < send_email<invoice>
  its output: Completed(\"Ada owes 12.50\")
";

#[test]
fn requests_notifications_behaviors_streams_and_commands_tell_their_story() {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_mediator"));
    let output = program.env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), STORY);
}
