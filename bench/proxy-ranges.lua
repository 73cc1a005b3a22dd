-- Ranges of 256 KiB, aligned, all over the first 32 MiB of a blob.
local chunk = 262144
local turn = 0

request = function()
  turn = (turn + 37) % 128
  wrk.headers["Range"] = "bytes=" .. turn * chunk .. "-" .. (turn + 1) * chunk - 1
  return wrk.format("GET", nil)
end
