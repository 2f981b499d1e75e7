//! A gRPC call of each kind, and what came of it.

use std::time::Duration;

use futures::stream;
use thiserror::Error;
use tonic::codegen::{Body, Bytes, StdError};
use tonic::{Code, Request, Status};

use crate::echo::echo_client::EchoClient;
use crate::echo::{CountTo, Words};
use crate::{TRAILER_COUNT, TRAILER_DETAIL};

const MESSAGES: u32 = 10;
/// Longer than any call takes here.
const DEADLINE: Duration = Duration::from_secs(20);
/// Shorter than the call that is to miss it, and long enough for that to reach its server on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

/// What was seen of a call of each kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exercise {
    /// What a unary call brought back.
    pub said: String,
    /// The deadline that its server saw.
    pub deadline: String,
    /// Trailer of a call that failed as it was told to.
    pub detail: Option<String>,
    /// Code of that call.
    pub failed_with: Code,
    /// Code of a call that took longer than its deadline.
    pub late: Code,
    /// Numbers that a server streamed.
    pub counted: Vec<u32>,
    /// The trailer after them.
    pub count: Option<String>,
    /// Answers on a stream of both directions.
    pub chatted: Vec<String>,
    /// The trailer after them.
    pub chat_count: Option<String>,
}

impl Exercise {
    /// Whether everything is as it was asked for.
    pub fn is_whole(&self) -> bool {
        let messages = MESSAGES.to_string();
        let deadline = self.deadline.trim_end_matches(char::is_alphabetic);
        self.said == "hello"
            && deadline.parse::<u64>().is_ok_and(|deadline| deadline > 0)
            && self.detail.as_deref() == Some("detail")
            && self.failed_with == Code::FailedPrecondition
            && matches!(self.late, Code::DeadlineExceeded | Code::Cancelled)
            && self.counted == (1..=MESSAGES).collect::<Vec<_>>()
            && self.count.as_ref() == Some(&messages)
            && self.chatted == words().map(|words| words.text).collect::<Vec<_>>()
            && self.chat_count == Some(messages)
    }
}

/// A call that should have succeeded.
#[derive(Debug, Error)]
#[error("{call}: {status}")]
pub struct ExerciseError {
    /// Which call.
    pub call: &'static str,
    /// How it ended.
    #[source]
    pub status: Box<Status>,
}

/// Makes a call of each kind.
///
/// # Errors
/// When one ends otherwise than it should.
pub async fn exercise<C>(channel: C) -> Result<Exercise, ExerciseError>
where
    C: tonic::client::GrpcService<tonic::body::Body> + Clone,
    C::Error: Into<StdError>,
    C::ResponseBody: Body<Data = Bytes> + Send + 'static,
    <C::ResponseBody as Body>::Error: Into<StdError> + Send,
{
    let error = |call| {
        move |status| ExerciseError {
            call,
            status: Box::new(status),
        }
    };
    let mut client = EchoClient::new(channel);
    let say = |words: Words, deadline| {
        let mut request = Request::new(words);
        request.set_timeout(deadline);
        request
    };
    let heard = client.say(say(word("hello"), DEADLINE)).await;
    let heard = heard.map_err(error("Say"))?.into_inner();

    let fails = Words {
        fail_with: Code::FailedPrecondition as u32,
        ..word("detail")
    };
    let failure = client.say(say(fails, DEADLINE)).await.err();
    let slow = Words {
        delay_millis: 60_000,
        ..word("slow")
    };
    let late = client.say(say(slow, SHORT)).await.err();

    let count = CountTo {
        last: MESSAGES,
        every_millis: 1,
    };
    let numbers = client.count(count).await.map_err(error("Count"))?;
    let (counted, count) = drain(numbers.into_inner(), |number| number.value)
        .await
        .map_err(error("Count"))?;
    let answers = client.chat(stream::iter(words())).await.map_err(error("Chat"))?;
    let (chatted, chat_count) = drain(answers.into_inner(), |heard| heard.text)
        .await
        .map_err(error("Chat"))?;

    let code = |status: &Option<Status>| status.as_ref().map_or(Code::Ok, Status::code);
    Ok(Exercise {
        said: heard.text,
        deadline: heard.timeout,
        failed_with: code(&failure),
        detail: failure.and_then(|status| text(status.metadata(), TRAILER_DETAIL)),
        late: code(&late),
        counted,
        count,
        chatted,
        chat_count,
    })
}

/// All messages of a stream, and its trailer.
async fn drain<T, U>(
    mut stream: tonic::Streaming<T>,
    read: impl Fn(T) -> U,
) -> Result<(Vec<U>, Option<String>), Status> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(read(message));
    }
    let trailers = stream.trailers().await?.unwrap_or_default();
    Ok((all, text(&trailers, TRAILER_COUNT)))
}

fn word(text: &str) -> Words {
    Words {
        text: text.to_owned(),
        ..Words::default()
    }
}

fn words() -> impl Iterator<Item = Words> {
    (1..=MESSAGES).map(|number| word(&format!("word {number}")))
}

fn text(map: &tonic::metadata::MetadataMap, name: &str) -> Option<String> {
    map.get(name)?.to_str().ok().map(str::to_owned)
}
