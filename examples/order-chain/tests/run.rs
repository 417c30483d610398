//! Runs the program as its users do.

const STORY: &str = "\
all is well
  order 1: placed, tea
  order 1: a good card charged at attempt 1
  order 1: shipped
  order 1: “your order is on its way”
the first charge fails, the second does not
  order 2: placed, coffee
  order 2: the bank does not answer, trying again
  order 2: slow bank charged at attempt 2
  order 2: shipped
  order 2: “your order is on its way”
the charge fails for good
  order 3: placed, tea
  order 3: the card has expired
  order 3: “we could not charge your card”
  placing it: Completed(())
  charging it: Failed(\"the card has expired\")
shipping fails: the money goes back
  order 4: placed, ice cream
  order 4: a good card charged at attempt 1
  order 4: refunded by receipt-4
  order 4: “your money is on its way back: we cannot ship it”
canceled before it starts
  order 5: “your order is canceled”
canceled while it runs: the handler is told, and the money goes back
  order 6: placed, piano
  order 6: a good card charged at attempt 1
  order 6: packing stopped
  order 6: refunded by receipt-6
  order 6: “your money is on its way back: you canceled it”
";

#[test]
fn each_order_ends_as_its_story_says() {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_order-chain"));
    let output = program.env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), STORY);
}
