// @segment/analytics-node: its adapter and its probes in one file, since Node cannot run the Python ones.
// `node node.mjs TASK`, with the task as JSON, prints its figures as one line of JSON, named as in the Python probes.

import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { makers } from '../workload.mjs'

const task = JSON.parse(process.argv[2])
const require = createRequire(`${task.modules}/`)
const make = makers(JSON.parse(readFileSync(task.tables, 'utf8')))[task.size ?? 'medium']
const turn = () => new Promise((resolve) => setImmediate(resolve))
const now = () => Number(process.hrtime.bigint())
const cpu = () => (({ user, system }) => (user + system) * 1000)(process.cpuUsage())

const probes = { delivery, calls, memory }
console.log(JSON.stringify(await probes[task.part]()))
process.exit(0)

function open() {
  const { Analytics } = require('@segment/analytics-node')
  return new Analytics({ writeKey: 'benchmark', host: task.url, flushInterval: 500, ...task.options })
}

async function send(analytics, first, count) {
  for (let i = first; i < first + count; i += 100) {
    for (let j = i; j < i + 100; j++) analytics.track(make(j))
    await turn()
  }
}

async function warmUp() {
  const analytics = open()
  await send(analytics, 0, 500)
  await analytics.closeAndFlush({ timeout: 60000 })
}

async function delivery() {
  await warmUp()
  await fetch(`${task.url}/_sink/reset`).then((answer) => answer.text())
  const application_cpu_ns = await application()
  const analytics = open()
  const [start_ns, before] = [now(), cpu()]
  await send(analytics, 0, task.count)
  await analytics.closeAndFlush({ timeout: 600000 })
  return { start_ns, cpu_ns: cpu() - before, application_cpu_ns }
}

async function application() {
  const before = cpu()
  await send({ track: () => undefined }, 0, task.count)
  return cpu() - before
}

async function calls() {
  await warmUp()
  const spent = []
  for (let first = 0; first < task.count; first += 5000) {
    const analytics = open()
    for (let i = first; i < first + 5000; i++) {
      const call = make(i)
      const start = process.hrtime.bigint()
      analytics.track(call)
      spent.push(Number(process.hrtime.bigint() - start) / 1000)
      if (i % 50 === 49) await turn()
    }
    await analytics.closeAndFlush({ timeout: 60000 })
  }
  spent.sort((one, other) => one - other)
  const at = (quantile) => spent[Math.ceil(quantile * spent.length) - 1]
  return { p50: at(0.5), p99: at(0.99), 'p99.9': at(0.999), max: spent.at(-1) }
}

async function memory() {
  const analytics = open()
  await send(analytics, 0, 2000)
  await sleep(1000)
  global.gc()
  const before = process.memoryUsage().rss
  await send(analytics, 2000, task.count)
  await sleep(1000)
  global.gc()
  return { bytes_per_message: (process.memoryUsage().rss - before) / task.count }
}
