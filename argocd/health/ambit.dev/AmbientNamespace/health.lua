local hs = { status = "Progressing", message = "Waiting for Ambit's operator" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "Waiting for Ambit's operator to observe generation " .. tostring(obj.metadata.generation)
  return hs
end
local ready
for _, condition in ipairs(obj.status.conditions) do
  if (condition.type == "Degraded" or condition.type == "Stalled") and condition.status == "True" then
    hs.status = "Degraded"
    hs.message = condition.reason .. ": " .. condition.message
    return hs
  end
  if condition.type == "Ready" then
    ready = condition
  end
end
if ready ~= nil then
  if ready.status == "True" then
    hs.status = "Healthy"
  end
  hs.message = ready.reason .. ": " .. ready.message
end
return hs
