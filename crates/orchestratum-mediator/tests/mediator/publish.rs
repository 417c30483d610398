//! Notifications.

use std::sync::Arc;

use orchestratum_mediator::prelude::*;
use tokio::sync::Barrier;

use crate::app::{App, Notebook, start};

#[derive(Clone, Notification)]
struct UserCreated {
    id: u32,
    meet: Option<Arc<Barrier>>,
}

/// Two handlers that meet here run at the same time.
async fn meet(notification: &UserCreated) {
    if let Some(barrier) = &notification.meet {
        barrier.wait().await;
    }
}

#[notification_handler(order = 20)]
async fn audit(notification: UserCreated, notebook: Service<Notebook>) -> anyhow::Result<()> {
    meet(&notification).await;
    notebook.write(format!("audit {}", notification.id));
    Ok(())
}

#[notification_handler(order = -1)]
async fn first_of_all(notification: UserCreated, notebook: Service<Notebook>) -> anyhow::Result<()> {
    notebook.write(format!("first {}", notification.id));
    anyhow::ensure!(notification.id != 13, "13 is unlucky");
    Ok(())
}

#[derive(FromServices)]
struct Welcome {
    notebook: Arc<Notebook>,
}

#[notification_handler]
impl NotificationHandler<UserCreated> for Welcome {
    async fn handle(&self, notification: UserCreated, _: Context) -> anyhow::Result<()> {
        meet(&notification).await;
        self.notebook.write(format!("welcome {}", notification.id));
        anyhow::ensure!(notification.id != 13, "no mail for 13");
        Ok(())
    }
}

#[derive(Clone, Notification)]
struct Unheard;

#[derive(Clone, Notification)]
struct Changed<T> {
    value: T,
}

#[notification_handler(Changed<u8>, Changed<String>)]
async fn changed<T: std::fmt::Display + Clone + Send + Sync + 'static>(
    notification: Changed<T>,
    notebook: Service<Notebook>,
) -> anyhow::Result<()> {
    notebook.write(notification.value.to_string());
    Ok(())
}

#[tokio::test]
async fn handlers_of_a_notification_run_in_their_order() {
    let app = start(|setup| setup).await;
    let App { mediator, notebook, .. } = &app;
    mediator.publish(UserCreated { id: 1, meet: None }).await.unwrap();
    assert_eq!(notebook.lines(), ["first 1", "welcome 1", "audit 1"]);
    mediator.publish(Unheard).await.unwrap();
}

#[tokio::test]
async fn one_failure_hides_neither_other_handlers_nor_other_failures() {
    let app = start(|setup| setup).await;
    let App { mediator, notebook, .. } = &app;
    for concurrently in [false, true] {
        let notification = UserCreated { id: 13, meet: None };
        let result = if concurrently {
            mediator.publish_concurrently(notification).await
        } else {
            mediator.publish(notification).await
        };
        let error = result.unwrap_err();
        assert_eq!((error.handlers, error.failures.len()), (3, 2));
        let text = error.to_string();
        assert!(text.starts_with("2 of 3 handlers of `") && text.contains("UserCreated` failed: "), "{text}");
        assert!(text.contains("`first_of_all` (") && text.contains("): 13 is unlucky; `Welcome` ("), "{text}");
        assert!(text.ends_with("): no mail for 13"), "{text}");
    }
    assert_eq!(notebook.lines().iter().filter(|line| *line == "audit 13").count(), 2);
}

#[tokio::test]
async fn concurrent_handlers_run_at_the_same_time() {
    let app = start(|setup| setup).await;
    let App { mediator, .. } = &app;
    let meet = Some(Arc::new(Barrier::new(2)));
    mediator.publish_concurrently(UserCreated { id: 2, meet }).await.unwrap();
}

#[tokio::test]
async fn a_generic_notification_handler_hears_of_the_listed_types() {
    let app = start(|setup| setup).await;
    let App { mediator, notebook, .. } = &app;
    mediator.publish(Changed { value: 8_u8 }).await.unwrap();
    mediator.publish(Changed { value: "text".to_owned() }).await.unwrap();
    mediator.publish(Changed { value: 'c' }).await.unwrap();
    assert_eq!(notebook.lines(), ["8", "text"]);
}
