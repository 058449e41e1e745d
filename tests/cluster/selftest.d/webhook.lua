-- webhook.lua ADDRESS PORT CERT KEY: an admission webhook that refuses every
-- request with the words "refused by the webhook". One request per connection.
local socket, ssl = require "socket", require "ssl"
local address, port, cert, key = table.unpack(arg)
local listener = assert(socket.bind(address, tonumber(port)))
local context = assert(ssl.newcontext { mode = "server", protocol = "any", certificate = cert, key = key })

local function answer(conn)
  local length = 0
  repeat
    local line = assert(conn:receive("*l"))
    length = tonumber(line:lower():match("^content%-length: (%d+)")) or length
  until line == ""
  local uid = assert(conn:receive(length):match('"uid":"([^"]+)"'))
  local body = ('{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{"uid":"%s","allowed":false,'
    .. '"status":{"message":"refused by the webhook"}}}'):format(uid)
  conn:send(("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body))
end

while true do
  local conn = listener:accept()
  conn = conn and ssl.wrap(conn, context)
  if conn then
    conn:settimeout(5)
    pcall(function() assert(conn:dohandshake()); answer(conn) end)
    conn:close()
  end
end
