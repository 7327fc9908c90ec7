//! A client: all requests of a piece of work at once, their answers in the requests' order.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::address::EndpointAddress;
use crate::companion::Companion;
use crate::endpoint::ServiceEndpoint;
use crate::exchange::{JsonExchange, RequestFailure};
use crate::lock::lock;
use crate::request::{AnswerReader, AnswerRules, JsonRequest};
use crate::transcript::RequestKey;
use crate::work::{ClientWork, PendingRequest, Report, Service};
use crate::{ClientError, ClientSettings, Secret, Transcript, Usage, read};

/// How often a call looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);

/// How long answers that are on their way are waited for after a stop or an error, so that what is paid for is kept.
const GRACE: Duration = Duration::from_secs(10);

/// Told how many answers there are; a `Break` stops the work.
pub type AskProgress<'p> = dyn FnMut(usize) -> ControlFlow<()> + 'p;

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers<T> {
    /// One for each request, in order.
    All(Vec<T>),
    /// `progress` stopped the work: the answers of the requests at the front. Further ones may be in the transcript.
    Stopped(Vec<T>),
}

impl<T> Answers<T> {
    /// The same with each answer turned into something else.
    pub fn map<U>(self, turn: impl FnMut(T) -> U) -> Answers<U> {
        match self {
            Self::All(answers) => Answers::All(answers.into_iter().map(turn).collect()),
            Self::Stopped(answers) => Answers::Stopped(answers.into_iter().map(turn).collect()),
        }
    }
}

/// A model that an endpoint serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedModel {
    /// What a request calls it.
    pub name: String,
    /// Where its weights come from, where the server says (vLLM: a path or a hub id).
    pub root: Option<String>,
}

/// A client of one service, which may have several endpoints.
///
/// ```text
/// let transcript = Transcript::open("judge.jsonl".as_ref())?;
/// let client = Client::new(&ClientSettings::of("http://127.0.0.1:8000/v1"), Some(transcript))?;
/// let options = GenerationOptions { model: "judge".into(), temperature: Some(0.0), ..Default::default() };
/// let ask = |text: &str| ChatRequest::new(vec![Message::user(text)], options.clone());
/// match client.chat(&[ask("A or B?"), ask("B or A?")], &mut |_answered| ControlFlow::Continue(()))? {
///     Answers::All(answers) => println!("{}", answers[0].text),
///     Answers::Stopped(front) => println!("a signal; {} answers, all in the transcript", front.len()),
/// }
/// ```
#[derive(Debug)]
pub struct Client {
    pub(crate) service: Arc<Service>,
    concurrency: usize,
    /// Ends companions with the client that started them.
    _closer: Option<EndpointCloser>,
}

/// Closes the endpoints of a service when it is dropped, also while a thread still waits for an answer.
#[derive(Debug)]
struct EndpointCloser(Vec<Arc<ServiceEndpoint>>);

impl Drop for EndpointCloser {
    fn drop(&mut self) {
        self.0.iter().for_each(|endpoint| endpoint.close());
    }
}

impl Client {
    /// A client by `settings`. The key is read from the environment; no connection is made yet.
    ///
    /// # Errors
    /// Wrong settings, and a key that is not in the environment.
    pub fn new(settings: &ClientSettings, transcript: Option<Transcript>) -> Result<Self, ClientError> {
        settings.validate().into_result(ClientError::Settings)?;
        let secret = settings.api_key_env.as_deref().map(Secret::from_env).transpose()?;
        let endpoints: Vec<Arc<ServiceEndpoint>> = match &settings.companion {
            Some(companion) => {
                let program = companion.program().map_err(ClientError::Companion)?;
                let patience = Duration::from_secs_f64(settings.timeout_s);
                vec![Arc::new(ServiceEndpoint::companion(Companion::new(program, patience)?))]
            }
            None => {
                let addresses =
                    settings.endpoints.iter().filter_map(|text| EndpointAddress::parse(text).ok());
                addresses.map(|address| Arc::new(ServiceEndpoint::http(address))).collect()
            }
        };
        let closer = EndpointCloser(endpoints.clone());
        let service = Service {
            exchange: JsonExchange::new(settings, secret),
            endpoints,
            retries: settings.retries,
            transcript: transcript.map(Mutex::new),
            usage: Mutex::default(),
            given: Mutex::default(),
        };
        Ok(Self { service: Arc::new(service), concurrency: settings.concurrency, _closer: Some(closer) })
    }

    /// POSTs each request's JSON and reads each answer with `read`, which is told the request's place. `progress` is called ten times a
    /// second with the number of answers; after a stop, answers on their way are waited for, for some seconds.
    ///
    /// An answer that `read` refuses counts as a temporary failure and is not kept. Requests that are equal (path, body, number) are
    /// asked once.
    ///
    /// # Errors
    /// The first request that is refused or fails through all its tries; a transcript that cannot be read or written.
    pub fn ask<T: Send + 'static>(
        &self,
        requests: Vec<JsonRequest>,
        read: impl Fn(usize, &Value) -> Result<T, String> + Send + Sync + 'static,
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<T>, ClientError> {
        self.ask_by(requests, AnswerRules { read: Box::new(read), refused: None }, progress)
    }

    /// As [`Client::ask`], but a request that is refused for its own sake ([`ClientError::of_one_request`]) ends nothing: the
    /// server's words stand in the place of its answer. It is not kept in the transcript.
    ///
    /// # Errors
    /// As [`Client::ask`]; also a refusal where everything is refused: all requests, or the first sixteen.
    pub fn ask_each<T: Send + 'static>(
        &self,
        requests: Vec<JsonRequest>,
        read: impl Fn(usize, &Value) -> Result<T, String> + Send + Sync + 'static,
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<Result<T, String>>, ClientError> {
        let read = move |place: usize, answer: &Value| read(place, answer).map(Ok);
        self.ask_by(requests, AnswerRules { read: Box::new(read), refused: Some(Err) }, progress)
    }

    fn ask_by<T: Send + 'static>(
        &self,
        requests: Vec<JsonRequest>,
        rules: AnswerRules<T>,
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<T>, ClientError> {
        let wanted = requests.len();
        let mut answers: Vec<Option<T>> = requests.iter().map(|_| None).collect();
        let tasks = self.replay(requests, &*rules.read, &mut answers)?;
        let answered = answers.iter().flatten().count();
        let (work, reports) = self.start(tasks, rules, answered)?;
        let mut call = ClientCall { answers, answered, reports };
        let outcome = call.collect(progress);
        work.called_off.store(true, Ordering::Relaxed);
        let Err(end) = outcome else {
            return Ok(Answers::All(call.answers.into_iter().flatten().collect()));
        };
        call.wait_for_the_rest();
        match end {
            CallEnd::Stop => {
                Ok(Answers::Stopped(call.answers.into_iter().map_while(|answer| answer).collect()))
            }
            CallEnd::Failed(error) => Err(match &self.service.transcript {
                Some(transcript) => ClientError::Interrupted {
                    source: Box::new(error),
                    answered: call.answered,
                    requests: wanted,
                    transcript: lock(transcript).path().to_path_buf(),
                },
                None => error,
            }),
        }
    }

    /// Models that each endpoint serves (`GET models`), in the order of the endpoints. Nothing of it is kept in the transcript.
    ///
    /// # Errors
    /// An endpoint that refuses, cannot be reached, or answers otherwise.
    pub fn models(&self) -> Result<Vec<Vec<ServedModel>>, ClientError> {
        (0..self.endpoints()).map(|place| self.models_at(place)).collect()
    }

    /// Models that the endpoint at a place serves.
    ///
    /// # Errors
    /// As [`Client::models`].
    pub fn models_at(&self, place: usize) -> Result<Vec<ServedModel>, ClientError> {
        let request = JsonRequest { path: "models".to_owned(), body: Value::Null, number: 0 };
        self.ask_at(place, request, |_, answer| read::models(answer))
    }

    /// How many endpoints there are.
    pub fn endpoints(&self) -> usize {
        self.service.endpoints.len()
    }

    /// Asks the endpoint at a place, and no other; the transcript neither answers nor keeps it. Where there are others that can be asked, it
    /// is not waited for long: one further try alone.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_at<T: Send + 'static>(
        &self,
        place: usize,
        request: JsonRequest,
        read: impl Fn(usize, &Value) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<T, ClientError> {
        let endpoint = self.service.endpoints.get(place);
        let endpoint =
            endpoint.ok_or_else(|| ClientError::Thread(std::io::Error::other("no such endpoint")))?;
        let service = Service {
            exchange: self.service.exchange.clone(),
            endpoints: vec![Arc::clone(endpoint)],
            retries: if self.endpoints() > 1 { self.service.retries.min(1) } else { self.service.retries },
            transcript: None,
            usage: Mutex::default(),
            given: Mutex::default(),
        };
        let client = Self { service: Arc::new(service), concurrency: 1, _closer: None };
        match client.ask(vec![request], read, &mut |_| ControlFlow::Continue(()))? {
            Answers::All(answers) | Answers::Stopped(answers) => answers
                .into_iter()
                .next()
                .ok_or_else(|| ClientError::Thread(std::io::Error::other("no answer to a request"))),
        }
    }

    /// POSTs to the endpoint at a place, once, what changes something there. Returns the answer, JSON or not.
    ///
    /// # Errors
    /// An endpoint that refuses or cannot be reached.
    pub fn tell_at(&self, place: usize, path: &str, body: &Value) -> Result<String, ClientError> {
        let endpoint = self.service.endpoints.get(place);
        let endpoint =
            endpoint.ok_or_else(|| ClientError::Thread(std::io::Error::other("no such endpoint")))?;
        endpoint.send_for_text(&self.service.exchange, path, body).map_err(|failure| match failure {
            RequestFailure::Final(error) => error,
            RequestFailure::Passing { problem, .. } => {
                ClientError::Unavailable { url: endpoint.below(path), problem, tries: 1 }
            }
        })
    }

    /// Leaves an endpoint out of what is asked from now on, while there are others, or takes it in again.
    pub fn set_left_out(&self, place: usize, is_left_out: bool) {
        if let Some(endpoint) = self.service.endpoints.get(place) {
            endpoint.set_left_out(is_left_out);
        }
    }

    /// Requests, tokens and retries so far.
    pub fn usage(&self) -> Usage {
        *lock(&self.service.usage)
    }

    /// Fills in what the transcript has. Returns the rest, equal requests as one.
    fn replay<T>(
        &self,
        requests: Vec<JsonRequest>,
        read: &AnswerReader<T>,
        answers: &mut [Option<T>],
    ) -> Result<VecDeque<PendingRequest>, ClientError> {
        let mut tasks: VecDeque<PendingRequest> = VecDeque::new();
        let mut known: HashMap<RequestKey, usize> = HashMap::new();
        for (place, request) in requests.into_iter().enumerate() {
            let key = RequestKey::of(&request);
            if let Some(&first) = known.get(&key) {
                tasks[first].places.push(place);
                continue;
            }
            let found = match &self.service.transcript {
                Some(transcript) => lock(transcript).answer(&key)?,
                None => None,
            };
            // What `read` refuses now was kept by another version of the program, and is asked again.
            if let Some(answer) = found
                && let Ok(read) = read(place, &answer)
            {
                answers[place] = Some(read);
                let mut usage = lock(&self.service.usage);
                usage.replayed += 1;
                usage.add_tokens(&answer);
                continue;
            }
            known.insert(key, tasks.len());
            tasks.push_back(PendingRequest { places: vec![place], request, key });
        }
        Ok(tasks)
    }

    fn start<T: Send + 'static>(
        &self,
        tasks: VecDeque<PendingRequest>,
        rules: AnswerRules<T>,
        answered: usize,
    ) -> Result<StartedWork<T>, ClientError> {
        let threads = self.concurrency.min(tasks.len());
        let (reporter, reports) = channel();
        let service = Arc::clone(&self.service);
        let work = Arc::new(ClientWork::new(service, tasks, rules, answered));
        for number in 0..threads {
            let (of_thread, reporter) = (Arc::clone(&work), reporter.clone());
            let thread = thread::Builder::new().name(format!("client {number}"));
            if let Err(error) = thread.spawn(move || of_thread.run(&reporter)) {
                work.called_off.store(true, Ordering::Relaxed);
                return Err(ClientError::Thread(error));
            }
        }
        Ok((work, reports))
    }
}

/// A call's work, which its threads share, and where they report.
type StartedWork<T> = (Arc<ClientWork<T>>, Receiver<Report<T>>);

/// Why a call ended early.
enum CallEnd {
    Stop,
    Failed(ClientError),
}

/// The caller's side of a call.
struct ClientCall<T> {
    answers: Vec<Option<T>>,
    answered: usize,
    reports: Receiver<Report<T>>,
}

impl<T> ClientCall<T> {
    /// Takes reports until every request is answered.
    fn collect(&mut self, progress: &mut AskProgress<'_>) -> Result<(), CallEnd> {
        loop {
            if progress(self.answered).is_break() {
                return Err(CallEnd::Stop);
            }
            if self.answered == self.answers.len() {
                return Ok(());
            }
            let tick = Instant::now() + TICK;
            loop {
                match self.reports.recv_timeout(tick.saturating_duration_since(Instant::now())) {
                    Ok(report) => self.take(report).map_err(CallEnd::Failed)?,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) if self.answered == self.answers.len() => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        let lost = std::io::Error::other("a thread ended early");
                        return Err(CallEnd::Failed(ClientError::Thread(lost)));
                    }
                }
            }
        }
    }

    /// Takes what is still on its way. Later errors say no more than the first.
    fn wait_for_the_rest(&mut self) {
        let until = Instant::now() + GRACE;
        while let Ok(report) = self.reports.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let _ = self.take(report);
        }
    }

    fn take(&mut self, report: Report<T>) -> Result<(), ClientError> {
        for (place, answer) in report? {
            if self.answers[place].replace(answer).is_none() {
                self.answered += 1;
            }
        }
        Ok(())
    }
}
