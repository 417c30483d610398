// graphile-worker as a measured program.

import { Logger, makeWorkerUtils, run as runWorker, WorkerPreset } from 'graphile-worker'
import pg from 'pg'
import { run, version, work } from './common.mjs'

// The fastest of seven settings when a backlog is drained.
const TUNED = { concurrentJobs: 100, localQueue: { size: 2_000 }, completeJobBatchDelay: 1, failJobBatchDelay: 1 }

await run(version('graphile-worker'), async ({ url, tuned }) => {
  const database = new pg.Pool({ connectionString: url })
  const preset = {
    extends: [WorkerPreset],
    // Its log would be taken for the talk with the runner.
    worker: { connectionString: url, logger: new Logger(() => () => {}), ...(tuned && TUNED) },
  }
  const utils = await makeWorkerUtils({ preset })
  return {
    setUp: async () => {
      await utils.migrate()
      await database.query('CREATE TABLE bench_orders (id bigint NOT NULL PRIMARY KEY)')
    },
    append: payload => utils.addJob('noop', payload),
    appendAll: payloads => utils.addJobs(payloads.map(payload => ({ identifier: 'noop', payload }))),
    appendWithin: async payload => {
      const client = await database.connect()
      await client.query('BEGIN')
      await client.query('INSERT INTO bench_orders (id) VALUES ($1)', [payload.i])
      await client.query("SELECT graphile_worker.add_job('noop', $1)", [payload])
      await client.query('COMMIT')
      client.release()
    },
    start: () => runWorker({ preset, noHandleSignals: true, taskList: { noop: work }, crontab: '' }),
    // Finished jobs are deleted.
    left: async () => {
      const { rows } = await database.query('SELECT count(*)::int AS left FROM graphile_worker._private_jobs')
      return rows[0].left
    },
  }
})
