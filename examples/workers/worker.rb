# A worker in Ruby's standard library: claims jobs over HTTP and runs them in threads.
#
#   FINMIND_URL=http://127.0.0.1:8000 FINMIND_KEY=fmj_… ruby worker.rb handlers.rb
#
# The file has a public method for each job type: `def send_invoice(payload, job) … end`.
# What it returns is the job's result; what it raises fails the attempt. `job.stopped?` is true, and
# `job.wait(seconds)` returns early, once it is to stop. See docs/remote-workers.md.

%w[json net/http socket].each { |name| require name }

BASE = URI(ENV.fetch("FINMIND_URL", "http://127.0.0.1:8000") + "/worker/")
CONCURRENCY = Integer(ENV.fetch("CONCURRENCY", "10"))
GRACE_SECONDS = Float(ENV.fetch("GRACE_SECONDS", "25"))
WORKER = ENV.fetch("WORKER_NAME") { "#{Socket.gethostname}:#{Process.pid}" }
OVER = %w[lease_lost timed_out cancelled].freeze
Refused = Class.new(StandardError) # the call itself is wrong: no use in sending it again

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
def log(words) = $stderr.puts("#{WORKER}: #{words}")

# One claimed job as its handler sees it: `id`, `attempt`, `lease_token`, `payload` and so on.
class Job
  attr_reader :why, :lease
  attr_accessor :lease_until

  def initialize(claimed, sent_at)
    claimed.each { |name, value| define_singleton_method(name) { value } }
    @lease = claimed.slice("id", "lease_token")
    @lease_until = sent_at + claimed["lease_seconds"]
    @lock, @told = Mutex.new, ConditionVariable.new
  end

  def stop(why) = @lock.synchronize { @why ||= why and @told.broadcast }
  def stopped? = !@why.nil?

  # Wait for so long, or until the job is to stop; whether it is.
  def wait(seconds)
    ends = now + seconds
    @lock.synchronize { @told.wait(@lock, ends - now) while @why.nil? && now < ends }
    stopped?
  end
end

# Send one call, again and again until it is answered.
def call(path, body, until_time: Float::INFINITY, unless_stopped: -> { false })
  pause = 0.2
  loop do
    begin
      headers = { "content-type" => "application/json", "x-api-key" => ENV.fetch("FINMIND_KEY", "") }
      request = Net::HTTP::Post.new(BASE + path, headers)
      request.body = JSON.generate(body.merge(worker: WORKER))
      answer = Net::HTTP.start(BASE.host, BASE.port, use_ssl: BASE.scheme == "https",
                               open_timeout: 10, read_timeout: 60) { |http| http.request(request) }
      return JSON.parse(answer.body) if answer.is_a?(Net::HTTPSuccess)
      again = answer.code >= "500" || %w[408 429].include?(answer.code)
      raise again ? RuntimeError : Refused, "#{answer.code} #{answer.body}"
    rescue StandardError => error
      raise if error.is_a?(Refused) || unless_stopped.call || now > until_time
      log("#{path}: #{error.message}; again in #{pause} s")
    end
    sleep(pause * rand(0.5..1.0))
    pause = [pause * 2, 5].min
  end
end

class Worker
  def initialize(handlers)
    @handlers = handlers
    @types = handlers.public_instance_methods(false).map(&:to_s).sort
    @running, @stopping = {}, false # what runs, by lease token
  end

  def stop = @stopping = true
  def run
    known = call("register", { job_types: @types, concurrency: CONCURRENCY })
    Thread.new { beat(known["heartbeat_seconds"]) }
    log("claims #{@types.join(", ")}")
    claim until @stopping
    drain
  end

  def claim
    room = [CONCURRENCY - @running.size, 100].min
    return sleep(0.02) if room <= 0
    sent_at = now # before the call: this worker's view of a lease ends first
    asked = { job_types: @types, limit: room, wait_seconds: 5, request_id: "#{Process.pid}-#{sent_at}" }
    answer = call("claim", asked, unless_stopped: -> { @stopping })
    answer["jobs"].each do |claimed|
      job = @running[claimed["lease_token"]] = Job.new(claimed, sent_at)
      Thread.new { attempt(job) }
    end
    @stopping = true if answer["drain"]
  rescue StandardError
    raise unless @stopping # it stops, and the service does not answer
  end

  def attempt(job)
    path, report = "complete", {}
    begin
      report = { result: @handlers.public_send(job.job_type, job.payload, job) }
    rescue Exception => error # whatever it is, it is the handler's
  X    end
    path, report = "release", {} if path == "fail" && job.why == "shutdown"
    # Else it is not its own any more.
    call(path, { jobs: [job.lease.merge(report)] }, until_time: job.lease_until) unless OVER.include?(job.why)
  rescue StandardError => error
    log("job #{job.id} is not reported, and will run again: #{error.message}")
  ensure
    @running.delete(job.lease_token)
  end

  def beat(seconds)
    loop do
      sleep(seconds)
      sent_at, jobs = now, @running.values
      begin
        answer = call("heartbeat", { jobs: jobs.map(&:lease) }, until_time: sent_at + seconds)
        jobs.zip(answer["jobs"]) do |job, found|
          job.lease_until = sent_at + found["lease_seconds"] unless OVER.include?(found["state"])
          job.stop(found["state"]) unless found["state"] == "held"
        end
        @stopping = true if answer["drain"]
      rescue StandardError => error
        log("heartbeat: #{error.message}")
      end
      jobs.each { |job| job.stop("lease_lost") if now > job.lease_until }
    end
  end

  def drain
    ends = now + GRACE_SECONDS
    while @running.any? && now < ends + 1
      @running.each_value { |job| job.stop("shutdown") } if now > ends
      sleep(0.02)
    end
    left = @running.values.map(&:lease)
    call("release", { jobs: left }, until_time: ends + 5) if left.any?
    call("stop", {}, until_time: ends + 5)
  end
end

handlers = Module.new { extend self }
handlers.module_eval(File.read(ARGV.fetch(0)), ARGV.fetch(0))
worker = Worker.new(handlers)
%w[TERM INT].each { |name| trap(name) { worker.stop } }
worker.run
