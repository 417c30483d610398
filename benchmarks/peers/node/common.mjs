// What every measured program on Node does in the same way. The Rust programs do it in `benchmarks/program`; the lines
// of the talk with the runner, the arguments, the payload and the files are the same.

import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'

// How many commands one call of `appendAll` gets when there are many.
const CHUNK = 5_000
// How many loops append at once.
const TASKS = 64
// How many commands a producer at a rate appends in one call.
const BATCH = 50
// A pick-up that takes longer, in milliseconds, is counted as missing.
const PATIENCE = 5_000
const SAMPLING = 20_000

export const payload = i => ({ i, kind: 'noop', to: 'somebody@example.org', note: 'abcdefghijklmnopqrstuvwxyz0123456789' })
export const payloads = (from, to) => Array.from({ length: to - from }, (_, k) => payload(from + k))

// The version of a dependency.
export function version(name) {
  return JSON.parse(readFileSync(new URL('package.json', import.meta.url), 'utf8')).dependencies[name]
}

// Milliseconds since 1970, with fractions: one clock for all processes of the machine.
const now = () => performance.timeOrigin + performance.now()

let options
let counts
let times
let total = 0

// The handler of every program: it is given the decoded payload and counts.
export async function work({ i }) {
  if (options.handlerMs > 0) await sleep(options.handlerMs)
  times[i] = now()
  counts[i] = Math.min(255, counts[i] + 1)
  total += 1
}

// The `main` of a program. `open(options)` connects and returns a queue: `setUp()`, `append(payload)`,
// `appendAll(payloads)`, `appendWithin(payload)`, `start()` and `left()`, each of which returns a promise.
export async function run(version, open) {
  try {
    options = read()
    counts = new Uint8Array(options.n)
    times = new Float64Array(options.n)
    const queue = await open(options)
    if (options.task === 'set-up') await queue.setUp()
    const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
    const next = async () => (await lines.next()).value ?? 'stop'
    say({ ready: true, version })
    await next()
    await tasks[options.task](queue)
    if (!['work', 'pickup'].includes(options.task)) say({ done: true })
    while ((await next()) === 'left') say({ left: await queue.left() })
    save()
    process.exit(0)
  } catch (error) {
    say({ error: error.message })
    process.exit(1)
  }
}

const tasks = {
  'set-up': async () => {},
  append,
  work: async queue => {
    await queue.start()
    tellProgress()
  },
  pickup,
  produce,
}

function read() {
  const string = value => ({ type: 'string', ...(value !== undefined && { default: value }) })
  const { positionals: [task], values } = parseArgs({
    allowPositionals: true,
    options: {
      url: string(),
      variant: string('default'),
      mode: string('all'),
      n: string('0'),
      from: string('0'),
      rate: string('0'),
      'gap-ms': string('20'),
      'handler-ms': string('0'),
      ledger: string(),
      times: string(),
      finished: string(),
    },
  })
  if (!(task in tasks)) throw new Error(`the task \`${task}\` is none of ${Object.keys(tasks).join(', ')}`)
  return {
    task,
    url: values.url,
    tuned: values.variant === 'tuned',
    mode: values.mode,
    n: Number(values.n),
    from: Number(values.from),
    rate: Number(values.rate),
    gapMs: Number(values['gap-ms']),
    handlerMs: Number(values['handler-ms']),
    ledger: values.ledger,
    times: values.times,
    finished: values.finished,
  }
}

async function append(queue) {
  const { from, n, mode } = options
  const started = performance.now()
  if (mode === 'all') {
    for (let i = from; i < n; i += CHUNK) await queue.appendAll(payloads(i, Math.min(n, i + CHUNK)))
  } else {
    const one = mode === 'within' ? queue.appendWithin : queue.append
    let next = from
    const loop = async () => {
      while (next < n) await one(payload(next++))
    }
    await Promise.all(Array.from({ length: mode === 'tasks' ? TASKS : 1 }, loop))
  }
  say({ appended: n - from, seconds: (performance.now() - started) / 1_000 })
}

// Says how many handlers have run, whenever it has changed.
function tellProgress() {
  let told = 0
  setInterval(() => {
    if (total !== told) say({ ran: (told = total) })
  }, 2)
}

async function pickup(queue) {
  await queue.start()
  // Whatever the library does when it starts is over.
  await sleep(2_000)
  const latencies = []
  let missing = 0
  const begun = performance.now()
  for (let i = 0; i < options.n && performance.now() - begun < SAMPLING; i++) {
    const before = now()
    await queue.append(payload(i))
    const appended = performance.now()
    while (!times[i] && performance.now() - appended < PATIENCE) await sleep(1)
    if (times[i]) latencies.push(Math.max(0, Math.round((times[i] - before) * 1e6)))
    else missing += 1
    await sleep(options.gapMs)
  }
  say({ latencies_ns: latencies, missing })
}

// Appends at a rate in small batches, or one by one with gaps; notes when each call began.
async function produce(queue) {
  const { from, n, rate, gapMs } = options
  if (rate === 0) {
    for (let i = from; i < n; i++) {
      times[i] = now()
      await queue.append(payload(i))
      await sleep(gapMs)
    }
    return
  }
  const started = performance.now()
  const underWay = new Set()
  for (let i = from; i < n; i += BATCH) {
    const end = Math.min(n, i + BATCH)
    await sleep(Math.max(0, started + ((end - from) / rate) * 1_000 - performance.now()))
    times.fill(now(), i, end)
    const call = queue.appendAll(payloads(i, end)).then(() => underWay.delete(call))
    underWay.add(call)
    if (underWay.size > 1_000) throw new Error(`a thousand appends are under way: ${rate} a second is too many`)
  }
  await Promise.all(underWay)
}

function save() {
  const nanoseconds = BigUint64Array.from(times, time => BigInt(Math.round(time * 1e6)))
  if (options.ledger) writeFileSync(options.ledger, counts)
  if (options.times) writeFileSync(options.times, new Uint8Array(nanoseconds.buffer))
  // No program here can watch for the end of a command.
  if (options.finished) writeFileSync(options.finished, new Uint8Array(8 * options.n))
}

function say(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`)
}
