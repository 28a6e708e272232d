//! Whose turn it is, and how a connection ends.

use super::*;

#[tokio::test]
async fn what_was_read_is_looked_at_before_more_is_read() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    for _ in 0..40 {
        connection.range().await;
    }
    let before = connection
        .turns_until(|heard| !ends(heard).is_empty())
        .await;
    assert!(ends(&before).len() < 40, "a turn was long enough for all");
    let mut ping = BytesMut::new();
    frame::put_ping(&mut ping, *b"12345678", false);
    connection.say(&ping).await;
    let is_pong = |heard: &Heard| heard.kind == kind::PING;
    let after = connection
        .turns_until(|heard| heard.iter().any(is_pong))
        .await;
    let pong = after.iter().position(is_pong).unwrap();
    let answered = ends(&before).len() + ends(&after[..pong]).len();
    assert_eq!(answered, 40, "the ping was read before its turn");
}

#[tokio::test]
async fn requests_that_keep_coming_do_not_keep_a_reply_from_going() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    let waiting = connection.begin(GATE, b"", true).await;
    connection.turns_while(|counts| counts.calls < 1).await;
    for _ in 0..100 {
        connection.range().await;
    }
    connection.gate.send(true).unwrap();
    let heard = connection
        .turns_until(|heard| ends(heard).len() == 101)
        .await;
    let ends = ends(&heard);
    let place = ends.iter().position(|stream| *stream == waiting).unwrap();
    assert!(place <= 2 * STEPS_PER_LOOK as usize, "at {place}: {ends:?}");
}

#[tokio::test]
async fn replies_that_keep_coming_do_not_keep_a_request_from_being_answered() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    for _ in 0..100 {
        connection.begin(GATE, b"", true).await;
    }
    connection.turns_while(|counts| counts.calls < 100).await;
    connection.gate.send(true).unwrap();
    let request = connection.range().await;
    let heard = connection
        .turns_until(|heard| ends(heard).len() == 101)
        .await;
    let ends = ends(&heard);
    let place = ends.iter().position(|stream| *stream == request).unwrap();
    assert!(place <= 2 * STEPS_PER_LOOK as usize, "at {place}: {ends:?}");
}

#[tokio::test]
async fn who_shuts_down_answers_what_is_under_way_and_names_the_last_stream() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    let waiting = connection.begin(GATE, b"", true).await;
    connection.turns_while(|counts| counts.calls < 1).await;
    connection.driver.go_away();
    // It was on its way.
    let late = connection.range().await;
    let heard = connection.turns_until(|heard| ends(heard) == [late]).await;
    let leaves: Vec<u32> = heard.iter().filter_map(leave).collect();
    assert_eq!(leaves, [u32::MAX >> 1], "there is no telling yet");
    connection.gate.send(true).unwrap();
    let heard = connection.turns_to_the_end().await;
    assert_eq!(ends(&heard), [waiting]);
    assert_eq!(leave(heard.last().unwrap()), Some(late));
}

#[tokio::test]
async fn who_shuts_down_answers_what_was_read_and_not_looked_at() {
    let mut connection = Connection::new(ClientLimits::default()).await;
    let mut last = 0;
    for _ in 0..40 {
        last = connection.range().await;
    }
    let before = connection
        .turns_until(|heard| !ends(heard).is_empty())
        .await;
    assert!(ends(&before).len() < 40, "a turn was long enough for all");
    connection.driver.go_away();
    let after = connection.turns_to_the_end().await;
    assert_eq!(ends(&before).len() + ends(&after).len(), 40);
    assert_eq!(leave(after.last().unwrap()), Some(last));
}
