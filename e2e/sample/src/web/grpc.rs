//! gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_sample::echo::{CountTo, Heard, Number, Words, echo_server};
use ambit_sample::{TRAILER_COUNT, TRAILER_DETAIL};
use futures::{Stream, StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Site;

/// The service.
pub(super) struct Echo {
    site: Arc<Site>,
}

impl Echo {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self { site }
    }
}

/// Counts a call whose caller went before the response.
struct Watch<'a> {
    site: &'a Site,
    done: bool,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.site.counts.cancelled();
        }
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl echo_server::Echo for Echo {
    type CountStream = Answers<Number>;
    type ChatStream = Answers<Heard>;

    async fn say(&self, request: Request<Words>) -> Result<Response<Heard>, Status> {
        self.site.counts.request("POST", "/ambit.sample.v1.Echo/Say");
        let mut watch = Watch {
            site: &self.site,
            done: false,
        };
        let timeout = timeout(&request);
        let words = request.into_inner();
        tokio::time::sleep(Duration::from_millis(words.delay_millis.into())).await;
        watch.done = true;
        match i32::try_from(words.fail_with) {
            Ok(0) => Ok(Response::new(Heard {
                text: words.text,
                server: self.site.name.clone(),
                timeout,
            })),
            code => Err(Status::with_metadata(
                code.map_or(Code::Unknown, Code::from_i32),
                "as it was asked for",
                trailer(TRAILER_DETAIL, &words.text),
            )),
        }
    }

    async fn count(&self, request: Request<CountTo>) -> Result<Response<Self::CountStream>, Status> {
        self.site.counts.request("POST", "/ambit.sample.v1.Echo/Count");
        let CountTo { last, every_millis } = request.into_inner();
        let numbers = stream::iter(1..=last).then(move |value| async move {
            tokio::time::sleep(Duration::from_millis(every_millis.into())).await;
            Ok(Number { value })
        });
        let end = stream::once(async move { Err(end_of_stream(last)) });
        Ok(Response::new(numbers.chain(end).boxed()))
    }

    async fn chat(&self, request: Request<Streaming<Words>>) -> Result<Response<Self::ChatStream>, Status> {
        self.site.counts.request("POST", "/ambit.sample.v1.Echo/Chat");
        let timeout = timeout(&request);
        let server = self.site.name.clone();
        let answers = stream::unfold(Some((request.into_inner(), 0)), move |state| {
            let (timeout, server) = (timeout.clone(), server.clone());
            async move {
                let (mut words, count) = state?;
                Some(match words.message().await {
                    Ok(Some(Words { text, .. })) => {
                        let heard = Heard {
                            text,
                            server,
                            timeout,
                        };
                        (Ok(heard), Some((words, count + 1)))
                    }
                    Ok(None) => (Err(end_of_stream(count)), None),
                    Err(status) => (Err(status), None),
                })
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// The caller's deadline as it arrived.
fn timeout<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("grpc-timeout");
    let value = value.and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// The good end of a stream, with a trailer of its own: tonic has no other way to say one.
fn end_of_stream(count: u32) -> Status {
    Status::with_metadata(Code::Ok, "", trailer(TRAILER_COUNT, &count.to_string()))
}

fn trailer(name: &'static str, value: &str) -> MetadataMap {
    let mut map = MetadataMap::new();
    if let Ok(value) = value.parse() {
        map.insert(name, value);
    }
    map
}
