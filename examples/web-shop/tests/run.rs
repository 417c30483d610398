//! Runs the shop and buys from it.
#![allow(clippy::unwrap_used, reason = "in helpers of tests, too, a panic is the message")]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use orchestratum_core::entity::overview;
use rustix::process::{Pid, Signal, kill_process};
use sea_orm::{ColumnTrait, ConnectionTrait, Database, DatabaseConnection, EntityTrait, PaginatorTrait, QueryFilter};
use serde_json::{Value, json};

struct Shop {
    process: Child,
    printed: Lines<BufReader<ChildStdout>>,
    address: String,
    client: ureq::Agent,
}

impl Shop {
    fn open(file: &Path) -> Self {
        let mut program = Command::new(env!("CARGO_BIN_EXE_web-shop"));
        program.arg("127.0.0.1:0").env("DATABASE_URL", url(file)).stdout(Stdio::piped());
        let mut process = program.spawn().unwrap();
        let mut printed = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = printed.next().unwrap().unwrap().strip_prefix("listening on ").unwrap().to_owned();
        let client = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        Self { process, printed, address, client }
    }

    fn order(&self, product: &str, quantity: u32) -> (u16, String) {
        let order = json!({ "product": product, "quantity": quantity, "email": "ada@example.org" });
        let request = self.client.post(format!("{}/orders", self.address)).content_type("application/json");
        let mut response = request.send(order.to_string()).unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn state(&self, id: &str) -> String {
        let mut response = self.client.get(format!("{}/orders/{id}", self.address)).call().unwrap();
        let order: Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        order["state"].as_str().unwrap().to_owned()
    }

    /// Waits until the order is no longer only received.
    fn decision(&self, id: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let state = self.state(id);
            if state != "received" {
                return state;
            }
            assert!(Instant::now() < deadline, "order {id} is still only received");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the shop as a process manager does; returns what it printed.
    fn close(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let printed: Vec<_> = self.printed.by_ref().map(Result::unwrap).collect();
        assert!(self.process.wait().unwrap().success());
        assert_eq!(printed.last().unwrap(), "all that ran has ended; what waits is in the database");
        printed
    }
}

/// A test that fails leaves no process behind.
impl Drop for Shop {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn url(file: &Path) -> String {
    format!("sqlite://{}?mode=rwc", file.display())
}

fn id(body: &str) -> String {
    serde_json::from_str::<Value>(body).unwrap()["id"].as_str().unwrap().to_owned()
}

async fn count(database: &DatabaseConnection, key: &str, state: &str) -> u64 {
    let commands = overview::Entity::find().filter(overview::Column::Key.eq(key));
    commands.filter(overview::Column::State.eq(state)).count(database).await.unwrap()
}

async fn number(database: &DatabaseConnection, query: &str) -> i32 {
    let row = database.query_one_raw(sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, query)).await;
    row.unwrap().unwrap().try_get_by_index(0).unwrap()
}

#[tokio::test]
async fn orders_and_commands_live_and_die_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.db");
    let shop = Shop::open(&file);
    let (status, body) = shop.order("teapot", 2);
    assert_eq!(status, 201, "{body}");
    let first = id(&body);
    assert_eq!(shop.decision(&first), "confirmed");
    assert_eq!(shop.order("teapot", 4), (409, "only 3 left".to_owned()));
    assert_eq!(shop.order("samovar", 1), (404, "we do not sell samovar".to_owned()));

    // Six customers want the three that are left.
    let orders: Vec<_> = std::thread::scope(|scope| {
        let customers: Vec<_> = (0..6).map(|_| scope.spawn(|| shop.order("teapot", 1))).collect();
        customers.into_iter().map(|customer| customer.join().unwrap()).collect()
    });
    let accepted: Vec<_> = orders.iter().filter(|(status, _)| *status == 201).map(|(_, body)| id(body)).collect();
    assert!(orders.iter().all(|(status, _)| [201, 409].contains(status)), "{orders:?}");
    let decisions: Vec<_> = accepted.iter().map(|id| shop.decision(id)).collect();
    assert_eq!(decisions.iter().filter(|decision| *decision == "confirmed").count(), 3, "{decisions:?}");
    assert!(decisions.iter().all(|decision| ["confirmed", "sold_out"].contains(&&**decision)), "{decisions:?}");
    let printed = shop.close();
    assert!(
        printed.contains(&format!("e-mail to ada@example.org: we have received your order {first}")),
        "{printed:?}"
    );

    let database = Database::connect(url(&file)).await.unwrap();
    let placed = 1 + accepted.len() as u64;
    assert_eq!(u64::try_from(number(&database, "SELECT COUNT(*) FROM shop_orders").await).unwrap(), placed);
    assert_eq!(number(&database, "SELECT stock FROM shop_products WHERE name = 'teapot'").await, 0);
    assert_eq!(count(&database, "fulfill_order", "completed").await, placed);
    let emails = overview::Entity::find().filter(overview::Column::Key.eq("email_customer"));
    assert_eq!(emails.count(&database).await.unwrap(), 2 * placed, "one when it is received, one when it is decided");
}

#[tokio::test]
async fn what_waits_when_the_shop_closes_is_done_when_it_opens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.db");
    let shop = Shop::open(&file);
    let orders: Vec<_> = (0..10).map(|_| id(&shop.order("cup", 2).1)).collect();
    shop.close();
    let database = Database::connect(url(&file)).await.unwrap();
    assert_eq!(count(&database, "fulfill_order", "running").await, 0);

    let shop = Shop::open(&file);
    assert!(orders.iter().all(|order| shop.decision(order) == "confirmed"));
    shop.close();
    assert_eq!(number(&database, "SELECT stock FROM shop_products WHERE name = 'cup'").await, 80);
    assert_eq!(count(&database, "fulfill_order", "completed").await, 10);
}
