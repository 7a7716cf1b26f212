-- SPDX-License-Identifier: Apache-2.0 OR MIT
-- What wrk does beyond its options: prints its figures as JSON, because its own
-- report rounds them, and asks for N routes in turn when called with `-- N`.

function init(args)
  local routes = tonumber(args[1])
  if not routes then
    return
  end
  -- Formatted once: making a request must cost the client next to nothing.
  local prepared = {}
  for index = 0, routes - 1 do
    prepared[index] = wrk.format("GET", string.format("/service-%04d/item", index))
  end
  local next_route = 0
  request = function()
    -- A stride without a common factor: neighbours in the table are not
    -- neighbours in time.
    next_route = (next_route + 367) % routes
    return prepared[next_route]
  end
  wrk.request = request
end

function done(summary)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "bytes": %d, "microseconds": %d, "errors": %d}',
    summary.requests,
    summary.bytes,
    summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout
  ))
end
