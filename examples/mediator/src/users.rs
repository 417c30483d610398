//! Requests about users, and what hears of a new one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use futures_util::stream::{self, Stream, StreamExt};
use orchestratum_mediator::prelude::*;
use serde::{Deserialize, Serialize};

use crate::email::{SendEmailCommand, Welcome};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) name: String,
}

/// A service: handlers ask for it by its type.
pub(crate) struct Users(Mutex<Vec<User>>);

impl Users {
    pub(crate) fn with(name: &str) -> Self {
        Self(Mutex::new(vec![User { name: name.to_owned() }]))
    }

    fn all(&self) -> MutexGuard<'_, Vec<User>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Serialize, Deserialize, Request)]
#[request(response = usize)]
pub(crate) struct CreateUser {
    pub(crate) name: String,
}

/// A handler as a type, as MediatR has it: its fields are filled from the services.
#[derive(FromServices)]
struct CreateUserHandler {
    users: Arc<Users>,
}

#[handler]
impl Handler<CreateUser> for CreateUserHandler {
    async fn handle(&self, request: CreateUser, ctx: Context) -> anyhow::Result<usize> {
        let user = User { name: request.name };
        let id = {
            let mut users = self.users.all();
            users.push(user.clone());
            users.len()
        };
        ctx.mediator().publish(UserCreated { user }).await?;
        Ok(id)
    }
}

#[derive(Clone, Serialize, Deserialize, Request)]
#[request(response = User)]
pub(crate) struct GetUser {
    pub(crate) id: usize,
}

/// A handler as a function: what it needs are its arguments.
#[handler]
async fn get_user(request: GetUser, users: Service<Users>) -> anyhow::Result<User> {
    let user = request.id.checked_sub(1).and_then(|place| users.all().get(place).cloned());
    user.with_context(|| format!("there is no user {}", request.id))
}

/// Something that has happened. It is told once and in this process: what must not be lost is appended.
#[derive(Clone, Notification)]
struct UserCreated {
    user: User,
}

#[notification_handler(order = 1)]
async fn audit(notification: UserCreated) -> anyhow::Result<()> {
    println!("  audit: {} was created", notification.user.name);
    Ok(())
}

#[notification_handler(order = 2)]
async fn welcome(notification: UserCreated, orchestrator: Orchestrator) -> anyhow::Result<()> {
    let to = notification.user.name;
    println!("  an e-mail to {to} is appended");
    orchestrator.append(SendEmailCommand { to, template: Welcome }).await?;
    Ok(())
}

#[derive(StreamRequest)]
#[request(item = User)]
pub(crate) struct ListUsers;

#[stream_handler]
fn list_users(_: ListUsers, users: Service<Users>) -> impl Stream<Item = anyhow::Result<User>> {
    let users = users.all().clone();
    stream::iter(users).map(Ok)
}
