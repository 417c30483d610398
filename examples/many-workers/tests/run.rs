//! Runs the program as its users do.

#[test]
fn every_command_is_completed_although_a_worker_is_killed() {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_many-workers"));
    let output = program.args(["--workers", "3", "--commands", "300"]).env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let printed = String::from_utf8(output.stdout).unwrap();
    let (before, after) = printed.split_once("all 300 commands are completed:\n").expect("a line that says so");
    assert!(before.contains("\nworker-1 is killed after "), "{printed}");

    let (mut completed, mut taken_over) = (0, 0);
    for line in after.lines() {
        let (count, what) = line.trim_start().split_once(' ').unwrap();
        let count: u32 = count.parse().unwrap();
        if what.starts_with("by worker-") { completed += count } else { taken_over += count }
    }
    assert_eq!(completed, 300, "{printed}");
    assert!(taken_over > 0, "{printed}");
}
