// pg-boss as a measured program.

import pg from 'pg'
import { PgBoss } from 'pg-boss'
import { run, version, work } from './common.mjs'

const QUEUE = 'bench'

// The fastest of six settings when a backlog is drained.
const TUNED = { batchSize: 2_000, localConcurrency: 2, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true }

await run(version('pg-boss'), async ({ url, tuned }) => {
  const database = new pg.Pool({ connectionString: url })
  const boss = new PgBoss({ connectionString: url, ...(tuned && { useListenNotify: true }) })
  boss.on('error', error => console.error(error.message))
  await boss.start()
  return {
    setUp: async () => {
      await boss.createQueue(QUEUE, tuned ? { notify: true } : {})
      await database.query('CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)')
    },
    append: payload => boss.send(QUEUE, payload),
    appendAll: payloads => boss.insert(QUEUE, payloads.map(data => ({ data }))),
    appendWithin: async payload => {
      const client = await database.connect()
      await client.query('BEGIN')
      await client.query('INSERT INTO bench_orders (id) VALUES ($1)', [payload.i])
      await boss.send(QUEUE, payload, { db: { executeSql: (text, values) => client.query(text, values) } })
      await client.query('COMMIT')
      client.release()
    },
    start: () => boss.work(QUEUE, tuned ? TUNED : {}, jobs => Promise.all(jobs.map(job => work(job.data)))),
    // Finished jobs stay for seven days.
    left: async () => {
      const sql = "SELECT count(*)::int AS left FROM pgboss.job WHERE name = $1 AND state IN ('created', 'retry', 'active')"
      const { rows } = await database.query(sql, [QUEUE])
      return rows[0].left
    },
  }
})
